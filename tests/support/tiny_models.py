"""Tiny versions of published reward models: the right architectures and tokens, random weights, saved as folders."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from router.backends.in_process.prm_models import Qwen2ForPrmModel, Qwen2ForProcessRewardModel

QWEN_TAG_ID = 3
CORPUS = ["What is 2 + 3 * 4 ? 3 * 4 = 12 2 + 12 = 14 Answer: 14 - 5 ки + -"] * 4
CONTEXT = 1024
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    # Large enough that scores differ by more than rounding.
    "initializer_range": 0.2,
}
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def writer(folder: Path, context: int) -> Path:
    """Save a language model that writes random bytes; return its folder."""
    tokenizer = _bytes(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos_token="<|endoftext|>")
    return _save(folder, tokenizer, LlamaForCausalLM, LlamaConfig, max_position_embeddings=context)


def qwen_math_prm(folder: Path, context: int = CONTEXT) -> Path:
    tokenizer = _bytes(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"])
    assert tokenizer.convert_tokens_to_ids("<extra_0>") == QWEN_TAG_ID
    return _save(folder, tokenizer, Qwen2ForProcessRewardModel, Qwen2Config, max_position_embeddings=context)


def skywork_prm(folder: Path) -> Path:
    tokenizer = _bytes(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], bos_token="<|endoftext|>")
    return _save(folder, tokenizer, Qwen2ForPrmModel, Qwen2Config)


def rlhflow_prm(folder: Path) -> Path:
    special = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    tokenizer = _bytes(special, bos_token=special[0], eos_token=special[1])
    tokenizer.chat_template = LLAMA_TEMPLATE
    return _save(folder, tokenizer, LlamaForCausalLM, LlamaConfig)


def math_shepherd_prm(folder: Path) -> Path:
    """Save a model with SentencePiece's tokens, which include the space before a word; tag and labels are one each."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=["\n", *"u:!"]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    return _save(folder, fast, MistralForCausalLM, MistralConfig)


def random_adapter(folder: Path, *, like: Path) -> Path:
    """Save a LoRA adapter with the shapes of the one in ``like`` and random weights."""
    shutil.copytree(like, folder)
    weights = folder / "adapter_model.safetensors"
    noise = torch.Generator().manual_seed(0)
    save_file({name: torch.randn(w.shape, generator=noise) * 0.1 for name, w in load_file(weights).items()}, weights)
    return folder


def random_head(folder: Path) -> Path:
    """Save a step-scoring head with random weights for the embedded model, and an adapter that changes nothing."""
    import peft
    from transformers import AutoModelForTokenClassification

    from router.backends.in_process.weights import model_folder
    from router.backends.specs import EMBEDDED
    from router.training.finetune import RANK, fresh_lora

    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(model_folder(EMBEDDED), num_labels=1, dtype=torch.float32)
    torch.nn.init.normal_(model.score.weight, std=0.2)
    lora = fresh_lora("TOKEN_CLS", RANK, modules_to_save=["score"])
    peft.get_peft_model(model, lora).save_pretrained(str(folder))
    return folder


def _bytes(special: list[str], **names: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def _save(folder: Path, tokenizer: PreTrainedTokenizerFast, model: type, config: type, **sizes: int) -> Path:
    torch.manual_seed(0)
    vocabulary = (len(tokenizer) + 63) // 64 * 64
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    model(config(vocab_size=vocabulary, **{**SIZES, **sizes}, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
