"""Architectures that change their logits after the output layer, told from their configuration.

A test by value does not see a cap where logits are small: 30 * tanh(x / 30) differs from x by x**3 / 2700.
"""

from isentrope.errors import ConfigError

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Keys of configurations with a limit of the logits; none or 0: no limit."""

FACTORS = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""Keys of configurations with a factor or divisor of the logits; none or 1: as they are."""


def require_plain_logits(config: object, where: str) -> None:
    """Raise ConfigError if a model with this configuration changes its logits after the output layer."""
    caps = {name: getattr(config, name, None) for name in CAPS}
    factors = {name: getattr(config, name, None) for name in FACTORS}
    changes = {name: value for name, value in caps.items() if value}
    changes |= {name: value for name, value in factors.items() if value is not None and value != 1}
    for name, value in changes.items():
        raise ConfigError(
            f"the model changes its logits after the output layer ({name} = {value}), which is not supported",
            where=where,
            fix="choose a model whose logits are those of its output layer",
        )
