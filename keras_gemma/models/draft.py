"""What people give as `compile(draft=...)`, as the engine takes it."""

from typing import Any

from keras_gemma.generation import DraftModel, PromptLookup, weights_for


def check_draft(draft: Any) -> None:
    """An error for what can't propose tokens."""
    if draft is None or draft == "prompt_lookup" or isinstance(draft, PromptLookup):
        return
    if not hasattr(draft, "backbone"):
        raise ValueError(
            'draft must be "prompt_lookup", a PromptLookup, a smaller GemmaCausalLM or None, not '
            f"{draft!r}."
        )


def draft_for(model: Any) -> Any:
    """The draft of a model's engine.

    Raises:
        ValueError: a draft model has another vocabulary.
    """
    draft = model.draft
    if draft is None or isinstance(draft, PromptLookup):
        return draft
    if draft == "prompt_lookup":
        return PromptLookup()
    ours, theirs = (one.backbone.config.vocabulary_size for one in (model, draft))
    if ours != theirs or _pieces(model) != _pieces(draft):
        raise ValueError(
            f"The draft model has a vocabulary of {theirs}, and the model one of {ours}: a draft "
            "must have the same tokenizer."
        )
    stack, variables = draft.backbone.stack, draft.backbone.variables
    weights = weights_for(stack, variables, model.plan == "auto")
    return DraftModel(weights, draft.backbone.config, draft.compute_dtype)


def _pieces(model):
    return None if model.preprocessor is None else model.preprocessor.tokenizer.proto
