"""A causal language model of Hugging Face as a judge: experiment.judge=hf:gpt2-large, or hf: and a local folder.

Needs the optional package `transformers`. k windows, W tokens of a window, C channels, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.tokenizers import CharTokenizer, Tokenizer
from experiments.evaluation.judges.base import KEY, Judge

LONGEST = 1024  # tokens of context that are used of models which see more: those of GPT-2


class HuggingFaceJudge(Judge):
    """A causal model and its tokenizer of the library `transformers`; special tokens spelt out in a text are text."""

    network: Any  # the library's

    def __init__(self, name: str, network: Any, tokenizer: Any) -> None:
        self.name = name
        self.tokenizer = tokenizer
        start = next((id for id in (tokenizer.bos_token_id, tokenizer.eos_token_id) if id is not None), None)
        if start is None:
            raise ValueError(f"{KEY}=hf:{name} has no token that a text begins or ends with: choose another model")
        seen = getattr(network.config, "max_position_embeddings", None) or LONGEST
        super().__init__(network, context=min(seen, LONGEST), start_id=start, vocabulary_size=network.config.vocab_size)
        if not self._is_causal():
            raise ValueError(f"{KEY}=hf:{name} sees what follows a token: choose a causal language model")

    def check_writer(self, tokenizer: Tokenizer) -> None:
        if isinstance(tokenizer, CharTokenizer):
            self.encode(tokenizer.characters)

    def encode(self, text: str) -> list[int]:
        ids, unknown = self._ids(text), self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            named = [repr(character) for character in sorted(set(text)) if unknown in self._ids(character)]
            raise ValueError(
                f"{KEY}=hf:{self.name} cannot read a text: its vocabulary has no {', '.join(named[:10])}; "
                "choose a judge with a byte-level vocabulary, as GPT-2's"
            )
        return ids

    def nll(self, ids: Tensor) -> Tensor:
        logits = self.network(input_ids=ids[:, :-1]).logits  # (k, W, V)
        nats = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        return nats.view(len(ids), -1)

    def hidden(self, ids: Tensor) -> Tensor:
        return self.network.base_model(input_ids=ids).last_hidden_state

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    @torch.no_grad()
    def _is_causal(self) -> bool:
        """Whether the first token's logits are the same whatever follows it."""
        ids = torch.tensor([[self.start_id, 0], [self.start_id, 1]])
        first, second = self.network(input_ids=ids).logits[:, 0]
        return torch.allclose(first, second, atol=1e-4)


def load_hf_judge(name: str) -> HuggingFaceJudge:
    """The judge of a model's name on the hub or of a local folder. Raises ValueError in one sentence; code that comes
    with a model is never run."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        remedy = 'pip install -c constraints.txt ".[judge]"'
        raise ValueError(f"{KEY}=hf:{name} needs the package transformers: {remedy}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        network = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:  # what the library raises for a name or a folder without a model
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{KEY}=hf:{name} is no causal model of Hugging Face ({reason}): check the name") from error
    return HuggingFaceJudge(name, network, tokenizer)
