"""Episodes as `verifiers` writes them to `traces.jsonl` (0.4.0), with what an import reads."""

from typing import Any

PLUMBING: dict[str, Any] = {
    "skills": [], "network_allow": ["*"], "network_block": [], "artifacts": [],
    "artifact_max_bytes": 33554432, "timeout": {}, "resources": {},
}  # fmt: skip


def trace(agent: object, read: str, said: str, **call: Any) -> dict[str, Any]:
    """Return the trace of an agent that read one message and sampled another."""
    made = {"node": 1, "model": "m", "finish_reason": "stop", "time": {"start": 1.0, "end": 1.5}}
    return {
        "version": 1,
        "agent": {"config": {}, "name": agent, "trainable": True},
        "nodes": [
            {"message": {"role": "user", "content": read}, "sampled": False},
            {"parent": 0, "message": {"role": "assistant", "content": said}, "sampled": True},
        ],
        "calls": [{**made, **call}],
        "rewards": {},
        "ok": True,
    }


def episode(*traces: dict[str, Any], **task: Any) -> dict[str, Any]:
    data = {"idx": 0, "prompt": "What is 2 + 3?", "answer": "5", **PLUMBING, **task}
    return {
        "id": "fc58ee6d7e4447d6bcb9dc0aebc45bd9",
        "env": {"id": "malt"},
        "task": {"type": "QATask", "data": data},
        "ok": True,
        "errors": [],
        "traces": list(traces),
    }
