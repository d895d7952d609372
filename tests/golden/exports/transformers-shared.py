"""Runs a kvshare plan on a Hugging Face model: a layer that shares reads the K or V that its owner has in the cache.

Made by `kvshare-run plan convert --to transformers`. The plan is in K_OWNERS and V_OWNERS: the layer whose K (V) each layer
reads; K and V may have owners of their own. Use:

    model = transformers.AutoModelForCausalLM.from_pretrained(DIR)
    model.generate(**inputs, past_key_values=plan_cache(model.config))
    model(input_ids=ids, past_key_values=plan_cache(model.config))          # a new cache for every text

or `python3 THIS_FILE DIR "Once upon a time"`. A layer that shares stores nothing. It still computes its K and V, which are
not used: memory is saved, not arithmetic. Layers with a sliding window keep all tokens. Not for static or offloaded caches.

Verified with transformers 5.23.0 and 4.57.1 (torch 2.15, CPU): llama, mistral, qwen2, qwen3, eager and sdpa.
"""
from transformers.cache_utils import Cache, DynamicLayer

K_OWNERS = [0, 1, 0, 3, 1, 3]
V_OWNERS = [0, 1, 0, 3, 1, 3]
MATRICES = None  # "kvshare_matrices" of the model's config.json, whose weights were refitted for the plan; None: any model


class PlanLayer(DynamicLayer):
    """The K and V of one layer. What is another layer's is kept here as tensors of the same length and no width, so that
    all that happens to a cache (growing, cropping, reordering) can happen to each layer alike."""

    def __init__(self, k_owner=None, v_owner=None):
        super().__init__()
        self.k_owner, self.v_owner = k_owner, v_owner  # PlanLayers, or None: its own

    def update(self, key_states, value_states, *args, **kwargs):
        own_keys = key_states if self.k_owner is None else key_states[..., :0]
        own_values = value_states if self.v_owner is None else value_states[..., :0]
        keys, values = super().update(own_keys, own_values, *args, **kwargs)
        # Owners lie below, so they have this pass's tokens already.
        return (keys if self.k_owner is None else self.k_owner.keys,
                values if self.v_owner is None else self.v_owner.values)

    def get_seq_length(self, *args):
        return self.keys.shape[-2] if self.is_initialized and self.keys.dim() == 4 else 0


def plan_cache(config):
    """An empty cache for a model of this configuration."""
    layer_count = config.get_text_config().num_hidden_layers
    if layer_count != len(K_OWNERS):
        raise ValueError(f"the plan has {len(K_OWNERS)} layers, the model has {layer_count}")
    if MATRICES and getattr(config, "kvshare_matrices", None) != MATRICES:
        raise ValueError("the plan is for the checkpoint with its refitted matrices, which `kvshare-run plan convert --to "
                         "checkpoint` made, and this model is another (config.json: kvshare_matrices)")
    layers = []
    for layer, (k, v) in enumerate(zip(K_OWNERS, V_OWNERS)):
        layers.append(PlanLayer(None if k == layer else layers[k], None if v == layer else layers[v]))
    return Cache(layers=layers)


if __name__ == "__main__":
    import sys
    import transformers

    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL_DIRECTORY PROMPT")
    tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
    inputs = tokenizer(sys.argv[2], return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**inputs, past_key_values=plan_cache(model.config), do_sample=False, max_new_tokens=64)
    print(tokenizer.decode(output[0], skip_special_tokens=True))
