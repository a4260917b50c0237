"""Locked, verified and GPU-proven environments for RL post-training with verl and vLLM."""

__version__ = "0.1.0"
