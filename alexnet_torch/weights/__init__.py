"""Model files in and out: ours, Caffe's, torchvision's, ONNX."""
