"""Transformers' side of a scene, PEFT's adapters with it: PyTorch without a compiler, as it comes."""

from shapes import SHAPES
from timing import serve, versions


class Model:
    """A `GemmaForCausalLM` of random weights."""

    def __init__(self, shape, dtype, cores):
        import torch
        import transformers

        self.torch, sizes = torch, SHAPES[shape]
        config = transformers.GemmaConfig(
            vocab_size=sizes["vocabulary_size"],
            hidden_size=sizes["hidden_dim"],
            intermediate_size=sizes["intermediate_dim"],
            num_hidden_layers=sizes["num_layers"],
            num_attention_heads=sizes["num_query_heads"],
            num_key_value_heads=sizes["num_key_value_heads"],
            head_dim=sizes["head_dim"],
        )
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        self.model = model.eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.facts = {
            "versions": versions("transformers", "torch"),
            "attention": self.model.config._attn_implementation,
        }

    def generate(self, ids, count, room):
        ids = self.torch.from_numpy(ids).long()
        with self.torch.inference_mode():
            made = self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
            )
        return made[:, ids.shape[1] :].numpy()

    def prepare(self, rank):
        if rank:
            import peft

            wanted = peft.LoraConfig(
                r=rank, lora_alpha=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
            )
            self.model = peft.get_peft_model(self.model, wanted)
            self.facts["versions"] |= versions("peft")
        self.model.train()
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = self.torch.optim.AdamW(weights, 1e-4)

    def train(self, ids, rows):
        for batch in self.torch.from_numpy(ids[:, :-1]).long().split(rows):
            loss = self.model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


if __name__ == "__main__":
    serve(Model)
