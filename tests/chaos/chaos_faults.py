"""What is done to a running world: one function a fault. Each returns what it did, in words, for the run's diary.

A fault leaves the world with processes dead or alive; `World.revive` starts what is dead. Poisoned events are in the
stream itself (`chaos_events`).
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import time
from collections.abc import Callable

from chaos_world import ChaosError, World

Fault = Callable[[World, random.Random], str]

CLIENTS = 100
ANSWER_S = 10.0


def kill_one(world: World, rng: random.Random) -> str:
    """SIGKILL of one process."""
    name = rng.choice(list(world.processes))
    world.processes[name].kill()
    return f"SIGKILL of {name}"


def kill_two(world: World, rng: random.Random) -> str:
    """SIGKILL of two processes at once, Kafka and Redis among them where the run has them."""
    victims: dict[str, Callable[[], None]] = {name: process.kill for name, process in world.processes.items()}
    if world.servers is not None:
        victims |= {"broker": world.servers.kafka.kill, "redis": world.servers.redis.kill}
    names = rng.sample(sorted(victims), 2)
    for name in names:
        victims[name]()
    if world.servers is not None:
        time.sleep(rng.uniform(0.0, 1.0))
        world.servers.start()
    return f"SIGKILL of {' and '.join(names)}"


def kill_starting(world: World, rng: random.Random) -> str:
    """SIGKILL of a trainer that has hardly begun."""
    world.trainer.kill()
    world.trainer.start()
    wait_s = rng.uniform(0.0, 4.0)
    time.sleep(wait_s)
    world.trainer.kill()
    return f"SIGKILL of trainer, and again {wait_s:.2f} s after its start"


def terminate(world: World, rng: random.Random) -> str:
    """SIGTERM: it ends well."""
    name = rng.choice(["trainer", "server"])
    world.processes[name].stop()
    return f"SIGTERM of {name}"


def freeze(world: World, rng: random.Random) -> str:
    """SIGSTOP of one process for a while."""
    name, pause_s = rng.choice(list(world.processes)), rng.uniform(0.1, 3.0)
    world.processes[name].signal(signal.SIGSTOP)
    time.sleep(pause_s)
    world.processes[name].signal(signal.SIGCONT)
    return f"SIGSTOP of {name} for {pause_s:.2f} s"


def freeze_and_kill(world: World, rng: random.Random) -> str:
    """SIGKILL of one process while another stands still."""
    still, dead = rng.sample(list(world.processes), 2)
    world.processes[still].signal(signal.SIGSTOP)
    world.processes[dead].kill()
    world.processes[dead].start()
    time.sleep(rng.uniform(0.1, 2.0))
    world.processes[still].signal(signal.SIGCONT)
    return f"SIGKILL of {dead} while {still} is stopped"


def power_cut(world: World, rng: random.Random) -> str:
    """Everything dies, and what was not synced is gone or torn."""
    return world.cut_power(rng)


def slow_clients(world: World, rng: random.Random) -> str:
    """Clients that never end their question; the others are answered all the same."""
    server = world.processes["server"].child
    if server is None or world.get("/health") != 200:
        return "slow clients: the server is not up yet, nothing done"
    clients = [_begin_a_question(world.port, rng) for _ in range(CLIENTS)]
    try:
        start = time.monotonic()
        if world.get("/health", ANSWER_S) != 200:
            raise ChaosError(f"with {CLIENTS} slow clients /health is not answered within {ANSWER_S:g} s")
        took_s = time.monotonic() - start
    finally:
        for client in clients:
            client.close()
    return f"{CLIENTS} slow clients, /health answered after {took_s * 1e3:.0f} ms"


def _begin_a_question(port: int, rng: random.Random) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=5.0)
    question = (
        b"POST /lookup HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
        b'{"name": "user", "values": [1, 2'
    )
    client.sendall(question[: rng.randint(1, len(question))])
    return client


def full_disk(world: World, rng: random.Random) -> str:
    """No block is left for a while. Processes may end by it, with one line that names the disk."""
    filler = world.small / "filler"
    if not world.has_small_disk:
        return "full disk: skipped, no tmpfs could be mounted (it takes root)"
    for process in world.processes.values():
        process.excuse = "No space left on device"
    size = _fill(filler)
    time.sleep(rng.uniform(0.2, 3.0))
    filler.unlink()
    return f"full disk: {size >> 20} MiB of filler"


def _fill(filler) -> int:
    with filler.open("wb", buffering=0) as file:
        for piece in (1 << 20, 4096):
            try:
                while file.write(bytes(piece)) == piece:
                    pass
            except OSError:
                continue
        return file.tell()


def restore_state(world: World, _: random.Random) -> str:
    """The state folder becomes what it was some faults ago, as after a lost disk; then it is backed up again."""
    restored = world.restore_state()
    if not restored:
        world.back_up_state()
        return "state folder backed up"
    shutil.rmtree(world.backup)
    return "state folder restored from its backup"


def remove_store(world: World, rng: random.Random) -> str:
    """The store's folder goes, or Redis forgets everything, under a trainer and a replica that have it open."""
    if world.servers is not None:
        world.servers.redis.client().flushall()
        return "Redis emptied"
    folder = world.root / "store"
    if not folder.exists():
        return "store removed: there is none yet"
    dead = rng.random() < 0.5
    if dead:
        world.trainer.kill()
    world.remove(folder)
    return f"store removed under a {'dead' if dead else 'running'} trainer"


KILLS: list[Fault] = [kill_one, kill_two, kill_starting]
ALL: list[Fault] = [
    *KILLS,
    *KILLS,
    terminate,
    freeze,
    freeze_and_kill,
    power_cut,
    power_cut,
    power_cut,
    slow_clients,
    full_disk,
    restore_state,
    restore_state,
    remove_store,
]
