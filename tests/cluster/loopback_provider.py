"""A node provider for Ray's launcher that knows one running head, or none."""

from __future__ import annotations

from typing import Any

from ray.autoscaler.node_provider import NodeProvider


class LoopbackProvider(NodeProvider):
    """A cloud whose only node is `provider.head`."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return ["head"] if self.provider_config.get("head") else []

    def node_tags(self, node_id: str) -> dict[str, str]:
        return {"ray-node-type": "head", "ray-node-status": "up-to-date"}

    def external_ip(self, node_id: str) -> str:
        return str(self.provider_config["head"])

    @staticmethod
    def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Make a key, as clouds do, and name it in the file's settings."""
        cluster_config["auth"]["ssh_private_key"] = "/made/by/the/cloud.pem"
        return cluster_config
