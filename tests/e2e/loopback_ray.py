"""Ray's command on a machine whose nodes all live on loopback: `python -m loopback_ray start ...`.

Ray's one switch that keeps its servers on loopback (`RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`) also says that a cluster has
one node. Here the second one is let in, and the address that Ray finds for this machine stays loopback. The launcher's
pauses are made for clouds.
"""

from __future__ import annotations


def main() -> None:
    from ray._private import ray_constants, services
    from ray.autoscaler._private import commands
    from ray.scripts import scripts

    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = lambda *_: "127.0.0.1"
    commands.POLL_INTERVAL = 0.5
    scripts.main()


if __name__ == "__main__":
    main()
