"""LoRA adapters on one frozen language model, which is tiny and random if none is named."""

import functools
import pydoc_data.topics

import torch
from optuna.distributions import FloatDistribution
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM as CausalLM
from transformers import AutoTokenizer, LlamaConfig, Trainer, TrainingArguments

from pbt_flow.adapters.randomness import drawn_alike
from pbt_flow.adapters.transformers import TrainerTask, with_shared_weights

TEXT = "".join(pydoc_data.topics.topics.values())[:60_000]


@functools.cache
@drawn_alike
def load(base):
    """The model and the tokens of the text; each member in this process has the same ones."""
    if base:
        tokens = AutoTokenizer.from_pretrained(base)(TEXT)["input_ids"]
        return CausalLM.from_pretrained(base), tokens
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=128, num_attention_heads=4, **size)
    return CausalLM.from_config(config), list(TEXT.encode("ascii", "ignore"))


def make_trainer(base="", device="cpu"):
    model, tokens = load(base)
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")
    model = get_peft_model(with_shared_weights(model), lora)
    rows = torch.tensor(tokens[: len(tokens) // 64 * 64]).reshape(-1, 64)
    rows = [{"input_ids": row, "labels": row} for row in rows]
    length = {"per_device_train_batch_size": 16, "max_steps": 100}
    args = TrainingArguments("out", use_cpu=device == "cpu", **length)
    return Trainer(model, args, train_dataset=rows[:-100], eval_dataset=rows[-100:])


class Adapters(TrainerTask):
    space = {
        "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
        "weight_decay": FloatDistribution(1e-4, 1e-1, log=True),
        "lora_dropout": FloatDistribution(0.0, 0.5),
    }
    direction, defaults = "minimize", {"interval": 20}

    def __init__(self, *, seed, device="cpu", base=""):
        self.base = base
        super().__init__(seed=seed, device=device)

    def make_trainer(self):
        return make_trainer(self.base, self.device)


if __name__ == "__main__":
    trainer = make_trainer()
    trainer.train()
    print(trainer.evaluate()["eval_loss"])
