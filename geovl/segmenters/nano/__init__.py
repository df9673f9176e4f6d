"""nano: the bundled model, run by ONNX Runtime without torch."""
