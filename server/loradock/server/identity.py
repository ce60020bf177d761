"""Who this server is: what every answer, heartbeat and log line says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from loradock.engine.protocol import BaseInfo, Fingerprint
from loradock.registry.resources import BaseDigests, BaseModel, ModuleShape


@dataclass(slots=True)
class Identity:
    """One process. Its address is known once it listens."""

    server_id: str
    base: BaseInfo
    address: str = ""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def base_digests(self) -> BaseDigests:
        """The digests of the base that it runs."""
        return digests_of(self.base.fingerprint)

    @property
    def facts(self) -> dict[str, object]:
        """What every log line of a request says of this server."""
        return {"base": self.base.name, "base_weights": self.base.fingerprint.weights}


def digests_of(fingerprint: Fingerprint) -> BaseDigests:
    """Give the engine's fingerprint as the registry writes it."""
    return BaseDigests(fingerprint.structural, fingerprint.weights, fingerprint.tokenizer)


def base_model_of(base: BaseInfo) -> BaseModel:
    """Give the engine's base as the registry records it."""
    return BaseModel(
        name=base.name,
        digests=digests_of(base.fingerprint),
        architecture=base.architecture,
        modules={
            path: ModuleShape(shape.in_features, shape.out_features)
            for path, shape in base.modules.items()
        },
        context_length=base.context_length,
        num_parameters=base.num_parameters,
    )
