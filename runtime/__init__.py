"""The device runtime: manifest, bundle, preprocessing, engines, results. Knows neither torch nor onnx."""
