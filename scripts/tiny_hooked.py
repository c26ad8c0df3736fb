"""A tiny GPT-2 as TransformerLens has it, read in the environments of other packages."""

from pathlib import Path

from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import AutoTokenizer, GPT2LMHeadModel


def hooked(folder: Path) -> HookedTransformer:
    "A GPT-2 from a local folder; from_pretrained takes names of TransformerLens' own list only"
    theirs = GPT2LMHeadModel.from_pretrained(folder)
    c = theirs.config
    shape = dict(n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, n_heads=c.n_head, d_vocab=c.vocab_size)
    rest = dict(d_head=c.n_embd // c.n_head, d_mlp=4 * c.n_embd, act_fn="gelu_new", normalization_type="LN")
    cfg = HookedTransformerConfig(**shape, **rest, model_name="tiny", original_architecture="GPT2LMHeadModel")
    model = HookedTransformer(cfg, tokenizer=AutoTokenizer.from_pretrained(folder), default_padding_side="right")
    model.load_state_dict(convert_gpt2_weights(theirs, model.cfg), strict=False)
    return model.eval()
