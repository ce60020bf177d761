"""What hostile or careless input may cost, in one place."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on everything that comes from outside."""

    max_blob_bytes: int = 4096 * MIB
    max_header_bytes: int = 8 * MIB  # of a safetensors file
    max_tensors: int = 20_000
    max_config_bytes: int = 1 * MIB  # adapter_config.json
    max_rank: int = 4096
    max_patterns: int = 4096  # entries of rank_pattern, alpha_pattern, target_modules
    max_pattern_chars: int = 4096
    max_template_chars: int = 64 * 1024
    max_labels: int = 1024
    max_label_chars: int = 256
    max_stops: int = 16
    max_parents: int = 64
    max_datasets: int = 256
    max_training_facts: int = 256
    max_text_chars: int = 16 * 1024  # descriptions, reasons, facts
    max_tags: int = 64
    max_metrics: int = 1024
    max_items: int = 20_000  # that one evaluation scored one by one
    max_suites: int = 64  # that one policy demands
