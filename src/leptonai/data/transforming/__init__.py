"""A version made of another one by a pipeline: here, or by the workers of a job."""
