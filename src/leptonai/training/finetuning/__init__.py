"""A published causal language model learns from examples: all of its weights, or adapters.

``python -m leptonai.training.finetuning CONFIG.json`` is what a fine-tuning job runs.
"""
