#!/usr/bin/env bash
# mean-average-precision 2024.1.5.0, map_2d; its objects have VOC's flag "difficult", and "crowd".
# Expected: as in VOC's own evaluation, a difficult object is neither found nor missed.
# Seen: a detection of it counts for nothing, but the object stays among those to be found. Where
# half of the objects are difficult, a detector that finds all gets AP 0.5. A crowd counts as missed
# too.
# Hurts: whoever evaluates VOC data. Recall cannot reach 1; AP is below that of other tools.
# Do: take difficult objects out before, or use Detectron2's PascalVOCDetectionEvaluator.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps mean-average-precision==2024.1.5.0 numpy==1.26.4 \
    pandas==2.2.3 pytz==2024.2 tzdata==2024.2 python-dateutil==2.9.0.post0 six==1.17.0
"$tmp/env/bin/python" -W ignore - <<'PY'
import sys
import numpy as np
from mean_average_precision import MetricBuilder

# Columns: corners and class; then the score, or "difficult" and "crowd".
detections = np.array([[10, 10, 50, 50, 0, 0.9], [60, 60, 90, 90, 0, 0.8]])
aps = {}
for kind, flags in (("plain", (0, 0)), ("difficult", (1, 0)), ("crowd", (0, 1))):
    objects = np.array([[10, 10, 50, 50, 0, 0, 0], [60, 60, 90, 90, 0, *flags]])
    for found in (2, 1):
        metric = MetricBuilder.build_evaluation_metric("map_2d", num_classes=1)
        metric.add(detections[:found], objects)
        aps[kind, found] = round(float(metric.value(iou_thresholds=0.5)[0.5][0]["ap"]), 2)
    print("the second object is", kind + ": found", aps[kind, 2], ", not found", aps[kind, 1])
if aps["difficult", 2] != 0.5 or aps["difficult", 1] != 0.5 or aps["crowd", 1] != 0.5:
    sys.exit("changed: difficult objects and crowds no longer count as missed")
PY
