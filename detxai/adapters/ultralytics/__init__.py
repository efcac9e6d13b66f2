"""ultralytics' detectors: YOLO and RT-DETR."""
