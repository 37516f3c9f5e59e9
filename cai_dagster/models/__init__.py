"""Language models as files: weights, chat formats, the offline model, hardware."""
