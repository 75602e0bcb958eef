"""Reads and writes model files: this package's, Caffe's, torchvision's, safetensors and ONNX."""
