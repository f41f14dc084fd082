"""Recording a run from inside a training; `leptonai.run` is its public face."""
