"""Models to train. Their modules import torch, and so are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.training.models.autoencoder import Autoencoder
    from leptonai.training.models.base import Model
    from leptonai.training.models.cnn import CNN
    from leptonai.training.models.gan import GAN
    from leptonai.training.models.gpt import GPT
    from leptonai.training.models.hugging_face import HFModel
    from leptonai.training.models.mlp import MLP
    from leptonai.training.models.recurrent import GRU, LSTM, RNN
    from leptonai.training.models.resnet import ResNet
    from leptonai.training.models.saving import load_model, save_model
    from leptonai.training.models.transformer import TransformerEncoder

__all__ = [
    "CNN",
    "GAN",
    "GPT",
    "GRU",
    "LSTM",
    "MLP",
    "RNN",
    "Autoencoder",
    "HFModel",
    "Model",
    "ResNet",
    "TransformerEncoder",
    "load_model",
    "save_model",
]

HOME_OF = {
    "Autoencoder": "leptonai.training.models.autoencoder",
    "CNN": "leptonai.training.models.cnn",
    "GAN": "leptonai.training.models.gan",
    "GPT": "leptonai.training.models.gpt",
    "GRU": "leptonai.training.models.recurrent",
    "HFModel": "leptonai.training.models.hugging_face",
    "LSTM": "leptonai.training.models.recurrent",
    "MLP": "leptonai.training.models.mlp",
    "Model": "leptonai.training.models.base",
    "RNN": "leptonai.training.models.recurrent",
    "ResNet": "leptonai.training.models.resnet",
    "TransformerEncoder": "leptonai.training.models.transformer",
    "load_model": "leptonai.training.models.saving",
    "save_model": "leptonai.training.models.saving",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOME_OF[name]), name)
