"""Models as files that run without this library: torch.export, ONNX, OpenVINO."""
