"""TinyGPT as a folder of the kind that a model hub holds, which transformers opens as any other model of its own.

transformers has no class of our name. OPT, a model that was published in 2022, is built alike: what it has beyond
TinyGPT is set to nothing, biases to zero and two places for padding that no text uses.
"""

import re
from pathlib import Path

import torch

from .models import ALPHABET, NUMBERS, TinyGPT

# Our names for the parts of TinyGPT, and OPT's.
_NAMES = {
    r"^characters\.": "model.decoder.embed_tokens.",
    r"^places\.": "model.decoder.embed_positions.",
    r"^norm\.": "model.decoder.final_layer_norm.",
    r"^head\b": "lm_head",
    r"^blocks\.": "model.decoder.layers.",
    r"\.norm1\b": ".self_attn_layer_norm",
    r"\.norm2\b": ".final_layer_norm",
    r"\.attention\.o\b": ".self_attn.out_proj",
    r"\.attention\.([qkv])\b": r".self_attn.\1_proj",
    r"\.up\b": ".fc1",
    r"\.down\b": ".fc2",
}


def transformers_name(name):
    """What a part of TinyGPT is called in transformers' model.

    >>> transformers_name("blocks.0.attention.q.weight")
    'model.decoder.layers.0.self_attn.q_proj.weight'
    """
    for ours, theirs in _NAMES.items():
        name = re.sub(ours, theirs, name)
    return name


def save_for_transformers(folder, model=None):
    """Write TinyGPT, pretrained or this one, and its alphabet as a tokenizer into a folder; return the folder.

    ``AutoModelForCausalLM.from_pretrained(folder)`` and ``AutoTokenizer.from_pretrained(folder)`` read it.
    """
    folder, model = Path(folder), TinyGPT.pretrained() if model is None else model
    _as_opt(model).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _as_opt(model):
    """The model as transformers' OPT, which gives the same logits."""
    from transformers import OPTConfig, OPTForCausalLM

    width, depth = model.norm.weight.numel(), len(model.blocks)
    config = OPTConfig(
        vocab_size=len(ALPHABET),
        hidden_size=width,
        word_embed_proj_dim=width,
        num_hidden_layers=depth,
        num_attention_heads=model.blocks[0].attention.heads,
        ffn_dim=model.blocks[0].up.out_features,
        max_position_embeddings=model.context,
        activation_function="gelu",
        tie_word_embeddings=False,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = OPTForCausalLM(config).eval()
    state = {transformers_name(name): value for name, value in model.state_dict().items()}
    places = "model.decoder.embed_positions.weight"
    state[places] = torch.cat([torch.zeros(2, width), state[places]])  # OPT counts places from two
    for name, value in theirs.state_dict().items():
        if name not in state:  # a bias that TinyGPT does without
            state[name] = torch.zeros_like(value)
    theirs.load_state_dict(state)
    return theirs


def _tokenizer():
    """A tokenizer for which each character of TinyGPT's alphabet is a token; it leaves others out."""
    from tokenizers import Tokenizer, decoders
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    characters = Tokenizer(kinds.BPE(vocab=NUMBERS, merges=[]))  # pairs of characters that nothing merges
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=characters, clean_up_tokenization_spaces=False)
