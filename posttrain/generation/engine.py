"""The `vllm` back end: vLLM's engine writes, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.generation import VllmBackEnd
from posttrain.config.model import ModelConfig
from posttrain.extras import require_extra
from posttrain.generation.generator import Completion, GenerationOptions, GenerationRequest
from posttrain.models.load import find_base, find_model, is_adapter

# What is handed to the engine at once: it batches by itself, and results come back behind each.
_AT_ONCE = 512


class VllmGenerator:
    """Writes with vLLM; prompts are the ids that our own tokenizer gives.

    Args:
        settings: Of the engine.
        model: What to load; an adapter's folder brings its base model by itself.
        tokenizer: Its tokenizer.
        dtype: Of the weights, such as ``bfloat16``.

    Raises:
        MissingExtraError: vLLM is not installed.
        CheckpointError: The model cannot be found.
    """

    def __init__(
        self, settings: VllmBackEnd, model: ModelConfig, tokenizer: Any, *, dtype: str
    ) -> None:
        self._vllm = require_extra("vllm", "vllm")
        # The engine knows the model's own end tokens; a recipe's tokenizer may have another.
        self._end_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.about = {"backend": "vllm", "version": str(self._vllm.__version__)}
        """For the results."""
        place = find_model(model.path)
        self._adapter, adapter_settings = None, {}
        if is_adapter(place):
            self._adapter = require_extra("vllm.lora.request", "vllm").LoRARequest(
                "adapter", 1, place
            )
            adapter_settings = {"enable_lora": True, "max_lora_rank": _find_rank(Path(place))}
            place = find_model(find_base(Path(place)))
        self._engine = self._vllm.LLM(
            model=place,
            tokenizer=find_model(model.tokenizer or model.path),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=dtype,
            tensor_parallel_size=settings.tensor_parallel,
            gpu_memory_utilization=settings.gpu_memory_fraction,
            max_model_len=settings.max_tokens,
            enable_prefix_caching=True,
            # A model's own sampling settings would change what it writes.
            generation_config="vllm",
            **adapter_settings,
        )

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions
    ) -> Iterator[tuple[int, Completion]]:
        """Write one completion per request; see ``Generator``."""
        for start in range(0, len(requests), _AT_ONCE):
            chosen = requests[start : start + _AT_ONCE]
            outputs = self._engine.generate(
                [{"prompt_token_ids": list(request.token_ids)} for request in chosen],
                [self._vllm.SamplingParams(**self.settings(r, options)) for r in chosen],
                use_tqdm=False,
                lora_request=self._adapter,
            )
            for index, output in enumerate(outputs, start):
                yield index, read_output(output)

    def settings(self, request: GenerationRequest, options: GenerationOptions) -> dict[str, Any]:
        """Map a request to the engine's sampling parameters."""
        return {
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
            "stop": list(options.stop),
            "stop_token_ids": self._end_ids,
            "seed": request.seed % 2**31 if options.temperature else None,
        }

    def close(self) -> None:
        """Let the engine go."""
        self._engine = None


def read_output(output: Any) -> Completion:
    """Take a completion out of one of the engine's outputs."""
    written = output.outputs[0]
    ids = tuple(written.token_ids)
    return Completion(
        text=written.text,
        token_count=len(ids),
        finished=written.finish_reason == "stop",
        token_ids=ids,
    )


def _find_rank(adapter: Path) -> int:
    """Rank that the engine must make room for; it knows powers of 2 from 8 on."""
    from posttrain.files import load_json

    settings = load_json(adapter / "adapter_config.json")
    rank = max([settings.get("r", 8), *(settings.get("rank_pattern") or {}).values()])
    return max(8, 1 << (rank - 1).bit_length())
