"""A registry with one tiny base, and the few steps that most tests of it begin with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from tiny_adapters import adapter_bytes

from loradock.registry.registry import Registry
from loradock.registry.resources import (
    BaseDigests,
    BaseModel,
    BlobRef,
    Delta,
    Lineage,
    ModuleShape,
    Profile,
    Published,
    Version,
)

SHAPES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": (8, 8),
        "self_attn.k_proj": (8, 4),
        "mlp.up_proj": (8, 16),
        "mlp.down_proj": (16, 8),
    }.items()
}
MODULES = {name: ModuleShape(*shape) for name, shape in SHAPES.items()}
TARGETS = {name: shape for name, shape in SHAPES.items() if "q_proj" in name}


def digest(content: bytes | str) -> str:
    """sha256 of some content."""
    content = content.encode() if isinstance(content, str) else content
    return "sha256:" + hashlib.sha256(content).hexdigest()


def tiny_base(name: str = "tiny") -> BaseModel:
    """A base that nothing runs."""
    digests = BaseDigests(digest(f"{name} s"), digest(f"{name} w"), digest(f"{name} t"))
    return BaseModel(name, digests, "LlamaForCausalLM", MODULES, 128, 1000)


@dataclass
class TinyRegistry:
    """A registry and the steps to fill it."""

    registry: Registry
    project: str = "acme"

    def __post_init__(self) -> None:
        self.base, _ = self.registry.bases.register(tiny_base(), by="tests")

    def upload(self, content: bytes, project: str = "") -> BlobRef:
        """Send bytes."""
        ref = BlobRef(digest(content), len(content))
        with self.registry.blobs.writer(project or self.project, ref) as writer:
            writer.write(content)
            writer.commit()
        return ref

    def delta(self, seed: int = 0, **options: Any) -> Delta:
        """Send an adapter's bytes."""
        weights, config = adapter_bytes(options.pop("shapes", TARGETS), seed=seed, **options)
        return Delta(self.upload(weights), self.upload(config))

    def publish(
        self,
        adapter: str = "triage",
        seed: int = 0,
        *,
        delta: Delta | None = None,
        profile: Profile = Profile(),  # noqa: B008
        lineage: Lineage = Lineage(),  # noqa: B008
        **options: Any,
    ) -> Published:
        """Publish a version, of the tiny base unless told otherwise."""
        fields = {"base": "tiny", "base_digests": self.base.digests, "by": "ann", **options}
        return self.registry.versions.publish(
            self.project,
            adapter,
            delta=delta or self.delta(seed),
            profile=profile,
            lineage=lineage,
            **fields,
        )

    def version(self, adapter: str = "triage", seed: int = 0, **options: Any) -> Version:
        """Publish and give the version."""
        return self.publish(adapter, seed, **options).version

    def point(self, number: int, expected: int | None = None, **options: Any) -> Any:
        """Move triage:production."""
        fields = {"by": "ann", "reason": f"to {number}", **options}
        return self.registry.aliases.set(
            self.project,
            "triage",
            "production",
            version_number=number,
            expected_generation=expected,
            **fields,
        )

    def roll_back(self, expected: int, **options: Any) -> Any:
        """Roll triage:production back."""
        fields = {"by": "bob", "reason": "it was bad", **options}
        return self.registry.aliases.rollback(
            self.project, "triage", "production", expected_generation=expected, **fields
        )
