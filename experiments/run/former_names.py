"""What settings are called in neighbouring programs and what here, for hints and for docs/coming-from.md.

A name is a key, or key=value where only that value is foreign; the present one is a key, a group, or group=choice.
"""

from typing import NamedTuple

from experiments.run.overrides import key_of, overrides_in

HYDRA_FLAGS = ("--cfg", "--package", "--config-path", "--config-name", "--config-dir", "--info", "--experimental-rerun")
MASKED = ("algorithm=masked_diffusion",)


class Today(NamedTuple):
    """The present name, a remark, and the choices under which the key is there (none: always)."""

    name: str
    remark: str = ""
    needs: tuple[str, ...] = ()


FAITHFUL = Today("algorithm=df_lm", "df_lm_faithful is the original's recipe")
TEXT = Today("experiment=language_modeling")
WANDB = ("logger=wandb",)

DIFFUSION_FORCING = {  # configurations/ of buoyancy99/diffusion-forcing
    **dict.fromkeys(
        [f"algorithm={name}" for name in ("diffusion", "diffusion_forcing", "df_base", "df_prediction", "df_video")],
        FAITHFUL,
    ),
    **dict.fromkeys([f"algorithm={name}" for name in ("df_planning", "df_robot")], FAITHFUL),
    "use_diffusion_forcing": Today("algorithm=df_lm", "teacher forcing is algorithm=gpt"),
    "algorithm.use_diffusion_forcing": Today("algorithm=df_lm", "teacher forcing is algorithm=gpt"),
    "algorithm.diffusion.sampling_timesteps": Today("algorithm.decoder.sampling_timesteps"),
    "algorithm.diffusion.ddim_sampling_eta": Today("algorithm.decoder.ddim_eta"),
    "ddim_sampling_eta": Today("algorithm.decoder.ddim_eta"),
    "algorithm.diffusion.stabilization_level": Today("algorithm.decoder.stabilization_level"),
    "algorithm.scheduling_matrix": Today("algorithm.decoder.schedule", "or a choice of algorithm/decoder"),
    "scheduling_matrix": Today("algorithm.decoder.schedule", "or a choice of algorithm/decoder"),
    "algorithm.uncertainty_scale": Today("algorithm.decoder.uncertainty_scale"),
    "algorithm.guidance_scale": Today("algorithm.decoder.guidance_scale", "with algorithm.decoder.keyword"),
    "algorithm.chunk_size": Today("algorithm.decoder.chunk_size", "null in the place of -1"),
    "algorithm.diffusion.use_snr": Today("algorithm.diffusion.use_fused_snr", "false is plain min-SNR"),
    "algorithm.diffusion.use_cum_snr": Today("algorithm.diffusion.use_fused_snr"),
    "algorithm.diffusion.self_condition": Today("algorithm.self_conditioning", "a share of the steps"),
    "algorithm.diffusion.network_size": Today("algorithm.backbone.n_embd"),
    "algorithm.diffusion.architecture.network_size": Today("algorithm.backbone.n_embd"),
    "algorithm.diffusion.architecture.attn_heads": Today("algorithm.backbone.n_head"),
    "algorithm.context_frames": Today("experiment.sampling.prompt", "a text"),
    "algorithm.lr": Today("algorithm.optimizer.lr"),
    "algorithm.weight_decay": Today("algorithm.optimizer.weight_decay"),
    "algorithm.warmup_steps": Today("algorithm.optimizer.warmup_steps"),
    "algorithm.optimizer_beta": Today("algorithm.optimizer.beta1", "and beta2"),
    **dict.fromkeys(
        [f"experiment=exp_{name}" for name in ("video", "prediction", "planning", "image", "robot")],
        TEXT,
    ),
    "experiment.training.lr": Today("algorithm.optimizer.lr"),
    "experiment.training.precision": Today("trainer.precision"),
    "experiment.training.max_epochs": Today("experiment.training.max_steps", "counted in steps"),
    "experiment.training.optim.accumulate_grad_batches": Today("experiment.training.accumulate_grad_batches"),
    "experiment.training.optim.gradient_clip_val": Today("experiment.training.gradient_clip_norm"),
    "experiment.training.checkpointing.every_n_train_steps": Today("experiment.training.checkpoint_every_steps"),
    "experiment.validation.batch_size": Today("experiment.evaluation.batch_size"),
    "experiment.validation.val_every_n_step": Today("experiment.training.val_every_steps"),
    "experiment.validation.val_every_n_epoch": Today("experiment.training.val_every_steps", "counted in steps"),
    "experiment.validation.limit_batch": Today("experiment.evaluation.max_batches"),
    "experiment.test.batch_size": Today("experiment.evaluation.batch_size"),
    "experiment.test.limit_batch": Today("experiment.evaluation.max_batches"),
    "cluster": Today("launcher=submitit_slurm", "with --multirun"),
    "debug=true": Today("debug=smoke"),
    "debug=1": Today("debug=smoke"),
    "debug=false": Today("debug=none"),
    "debug=0": Today("debug=none"),
    "wandb": Today("logger=wandb"),
    "wandb.mode": Today("logger.wandb.mode", "with logger=wandb", WANDB),
    "wandb.project": Today("logger.wandb.project", "with logger=wandb", WANDB),
    "wandb.entity": Today("logger.wandb.entity", "with logger=wandb", WANDB),
}
NANOGPT = {  # train.py and sample.py of karpathy/nanoGPT
    "out_dir": Today("hydra.run.dir"),
    "eval_interval": Today("experiment.training.val_every_steps"),
    "log_interval": Today("logger.log_every_steps"),
    "eval_iters": Today("experiment.evaluation.max_batches"),
    "eval_only": Today("experiment.tasks", "as [validation], with load="),
    "always_save_checkpoint": Today("experiment.training.checkpoint_every_steps"),
    "init_from": Today("load", "or resume, which goes on where a run stopped"),
    "wandb_log": Today("logger=wandb"),
    "wandb_project": Today("logger.wandb.project", "with logger=wandb", WANDB),
    "wandb_run_name": Today("name"),
    "gradient_accumulation_steps": Today("experiment.training.accumulate_grad_batches"),
    "batch_size": Today("experiment.training.batch_size"),
    "block_size": Today("algorithm.backbone.block_size"),
    "n_layer": Today("algorithm.backbone.n_layer"),
    "n_head": Today("algorithm.backbone.n_head"),
    "n_embd": Today("algorithm.backbone.n_embd"),
    "dropout": Today("algorithm.backbone.dropout"),
    "bias": Today("algorithm.backbone.bias"),
    "learning_rate": Today("algorithm.optimizer.lr"),
    "max_iters": Today("experiment.training.max_steps"),
    "weight_decay": Today("algorithm.optimizer.weight_decay"),
    "beta1": Today("algorithm.optimizer.beta1"),
    "beta2": Today("algorithm.optimizer.beta2"),
    "grad_clip": Today("experiment.training.gradient_clip_norm", "null in the place of 0"),
    "decay_lr": Today("algorithm.optimizer.min_lr_ratio", "1 keeps the peak"),
    "warmup_iters": Today("algorithm.optimizer.warmup_steps"),
    "lr_decay_iters": Today("experiment.training.max_steps", "the learning rate falls until the last step"),
    "min_lr": Today("algorithm.optimizer.min_lr_ratio", "a share of the peak"),
    "backend": Today("trainer=ddp"),
    "device": Today("trainer.accelerator", "or trainer=cpu, gpu, mps"),
    "dtype": Today("trainer.precision"),
    "compile": Today("experiment.training.compile"),
    "start": Today("experiment.sampling.prompt"),
    "num_samples": Today("experiment.sampling.n_samples"),
    "max_new_tokens": Today("experiment.sampling.length"),
    "temperature": Today("algorithm.decoder.temperature"),
    "top_k": Today("algorithm.decoder.top_k", "of most decoders", ("algorithm=gpt",)),
    "dataset=shakespeare_char": Today("dataset=tiny_shakespeare"),
}
TINY_DIFFUSION = {  # constants and arguments of nathan-barry/tiny-diffusion
    "confidence_threshold": Today(
        "algorithm.decoder.threshold",
        "with algorithm=masked_diffusion algorithm/decoder=threshold",
        (*MASKED, "algorithm/decoder=threshold"),
    ),
    "algorithm.decoder.confidence_threshold": Today(
        "algorithm.decoder.threshold", "with algorithm/decoder=threshold", (*MASKED, "algorithm/decoder=threshold")
    ),
    "context_len": Today("algorithm.decoder.context_len", "of a masked method's decoders", MASKED),
    "method": Today("algorithm/decoder"),
    "temp": Today("algorithm.decoder.temperature"),
    "k": Today("algorithm.decoder.tokens_per_step", "of algorithm/decoder=top_confidence", MASKED),
    "diffusion_steps": Today(
        "algorithm.decoder.steps", "of algorithm/decoder=ancestral", (*MASKED, "algorithm/decoder=ancestral")
    ),
}
LIGHTNING = {  # kuleshov-group/mdlm, lightning-hydra-template, and Lightning's Trainer
    "max_steps": Today("experiment.training.max_steps"),
    "max_epochs": Today("experiment.training.max_steps", "counted in steps"),
    "epochs": Today("experiment.training.max_steps", "counted in steps"),
    "lr": Today("algorithm.optimizer.lr"),
    "optim": Today("algorithm/optimizer"),
    "optim.lr": Today("algorithm.optimizer.lr"),
    "optim.weight_decay": Today("algorithm.optimizer.weight_decay"),
    "optim.beta1": Today("algorithm.optimizer.beta1"),
    "optim.beta2": Today("algorithm.optimizer.beta2"),
    "optimizer": Today("algorithm/optimizer"),
    "trainer.max_steps": Today("experiment.training.max_steps"),
    "trainer.max_epochs": Today("experiment.training.max_steps", "counted in steps"),
    "trainer.val_check_interval": Today("experiment.training.val_every_steps"),
    "trainer.accumulate_grad_batches": Today("experiment.training.accumulate_grad_batches"),
    "trainer.gradient_clip_val": Today("experiment.training.gradient_clip_norm"),
    "trainer.limit_val_batches": Today("experiment.evaluation.max_batches"),
    "trainer.limit_test_batches": Today("experiment.evaluation.max_batches"),
    "trainer.log_every_n_steps": Today("logger.log_every_steps"),
    "trainer.gpus": Today("trainer.devices"),
    "gpus": Today("trainer.devices"),
    "devices": Today("trainer.devices"),
    "accelerator": Today("trainer.accelerator"),
    "strategy": Today("trainer.strategy"),
    "precision": Today("trainer.precision"),
    "model": Today("algorithm/backbone"),
    "model.hidden_size": Today("algorithm.backbone.n_embd"),
    "model.n_blocks": Today("algorithm.backbone.n_layer"),
    "model.n_heads": Today("algorithm.backbone.n_head"),
    "model.length": Today("algorithm.backbone.block_size"),
    "model.dropout": Today("algorithm.backbone.dropout"),
    "backbone": Today("algorithm/backbone"),
    **dict.fromkeys(("algorithm=mdlm", "algo=mdlm"), Today("algorithm=masked_diffusion")),
    **dict.fromkeys(
        ("algorithm=bd3lm", "algo=bd3lm"), Today("algorithm=block_diffusion", "block_size there is algorithm.block_len")
    ),
    "algorithm.parameterization": Today("algorithm.parameterisation"),
    "parameterization": Today("algorithm.parameterisation", "of Diffusion Forcing"),
    "data": Today("dataset"),
    "data.path": Today("dataset.path"),
    "data_dir": Today("dataset.path"),
    "data.tokenizer_name_or_path": Today("dataset.tokenizer_path", "of dataset.tokenizer=bpe"),
    "tokenizer": Today("dataset.tokenizer"),
    "vocab_size": Today("dataset.vocab_size", "of dataset.tokenizer=bpe"),
    "loader.batch_size": Today("experiment.training.batch_size"),
    "loader.global_batch_size": Today("experiment.training.batch_size", "on each device"),
    "loader.eval_batch_size": Today("experiment.evaluation.batch_size"),
    "training.ema": Today("experiment.training.ema_decay"),
    "ema": Today("experiment.training.ema_decay"),
    "sampling.steps": Today(
        "algorithm.decoder.steps", "of algorithm/decoder=ancestral", (*MASKED, "algorithm/decoder=ancestral")
    ),
    "sampling.predictor": Today("algorithm/decoder"),
    "sampler": Today("algorithm/decoder"),
    "decoder": Today("algorithm/decoder"),
    "prompt": Today("experiment.sampling.prompt"),
    "tasks": Today("experiment.tasks"),
    "mode": Today("experiment.tasks"),
    "eval.checkpoint_path": Today("load"),
    "ckpt_path": Today("load", "or resume, which goes on where a run stopped"),
    "checkpointing.resume_ckpt_path": Today("resume"),
    "tags": Today("logger.wandb.tags", "with logger=wandb", WANDB),
    "project": Today("logger.wandb.project", "with logger=wandb", WANDB),
    "entity": Today("logger.wandb.entity", "with logger=wandb", WANDB),
}
SOURCES = {
    "diffusion-forcing": DIFFUSION_FORCING,
    "nanoGPT": NANOGPT,
    "tiny-diffusion": TINY_DIFFUSION,
    "MDLM, Lightning": LIGHTNING,
}


def hint(override: str) -> str | None:
    """What an override in a neighbour's words is called here; None where it is in nobody's."""
    key, value = key_of(override), override.partition("=")[2].strip("'\"")
    for source, names in SOURCES.items():
        for name in (key, f"{key}={value.lower()}"):
            if name in names:
                what = f"unknown choice {name}" if "=" in name else f"unknown config key '{name}'"
                about = "; ".join(filter(None, (source, names[name].remark)))
                return f"{what}: did you mean '{names[name].name}'? ({about})"
    return None


def hint_among(argv: list[str]) -> str | None:
    """The hint for the first override of a command line that has one."""
    return next((found for override in overrides_in(argv) if (found := hint(override))), None)


def refuse_flags(argv: list[str]) -> None:
    """Raise ValueError on a setting that is written as a flag, as nanoGPT's are: --batch_size=32."""
    for word in argv:
        name, _, value = word.partition("=")
        if name.startswith("--") and value and name not in HYDRA_FLAGS:
            setting = word.removeprefix("--")
            raise ValueError(hint(setting) or f"cannot read '{word}': settings have no dashes, say {setting}")


def page_tables() -> str:
    """The tables of docs/coming-from.md."""
    parts = []
    for source, names in SOURCES.items():
        rows = [f"| `{name}` | `{today.name}` | {today.remark} |" for name, today in names.items()]
        parts.append("\n".join([f"## {source}\n", "| there | here | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page_tables(), end="")
