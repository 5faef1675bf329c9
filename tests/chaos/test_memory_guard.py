"""A worker that outgrows its budget, seen from outside the daemon: shed, replaced, and told in the status."""

from __future__ import annotations

from tests.kit.daemon import alive, running_daemon, wait_until
from tests.kit.service import fake_model, fake_tree

BUDGET_MIB = 192  # a worker without a leak takes about a third of it


def test_a_leaking_worker_is_shed_replaced_and_told(tmp_path):
    model = fake_model(tmp_path, leak_mib=64)
    tree = fake_tree(model, memory={"budget_mib": BUDGET_MIB, "min_available_mib": 0})
    with running_daemon(tree, tmp_path) as daemon:
        before = daemon.status()
        assert before["memory"]["budget_bytes"] == BUDGET_MIB << 20
        assert "guard, once a second" in before["memory"]["enforced_by"]

        refused = wait_until(lambda: _refusal(daemon), "the guard to shed")
        assert refused["error"]["code"] == "memory_guard"
        assert f"its budget is {BUDGET_MIB} MiB" in refused["error"]["message"]
        shedding = daemon.status()
        assert shedding["state"] == "degraded"
        assert [condition["code"] for condition in shedding["conditions"]] == ["memory_guard"]

        wait_until(lambda: daemon.status()["state"] == "ready", "the guard to be content")
        after = daemon.status()
        assert after["worker_pid"] != before["worker_pid"]
        assert not alive(before["worker_pid"])
        assert (after["pid"], after["counters"]["engine_restarts"]) == (before["pid"], 1)
        assert 0 < after["memory"]["worker_anon_bytes"] < BUDGET_MIB << 20
        assert (after["conditions"], after["counters"]["failed"]) == ([], 0)
        assert daemon.chat("again")[0] == 200


def test_a_cache_that_outgrows_the_budget_is_let_go_of_and_the_worker_stays(tmp_path):
    # Four kept prompts fit the cache, but not the budget beside the worker itself.
    model = fake_model(tmp_path, state_mib=36)
    memory = {"budget_mib": 150, "cache_mib": 149, "min_available_mib": 0}
    with running_daemon(fake_tree(model, memory=memory), tmp_path) as daemon:
        before = daemon.status()
        for number in range(4):
            code, _ = daemon.chat(f"question {number}, which is long enough to be worth keeping")
            assert code == 200
        wait_until(lambda: daemon.status()["state"] == "degraded", "the guard to shed")
        wait_until(lambda: daemon.status()["memory"]["worker_anon_bytes"] < 60 << 20, "the cache to be empty")
        wait_until(lambda: daemon.status()["state"] == "ready", "the guard to be content")
        after = daemon.status()
        assert after["worker_pid"] == before["worker_pid"]
        assert (after["counters"]["engine_restarts"], after["counters"]["failed"]) == (0, 0)
        for _ in range(2):
            code, body = daemon.chat("question 0, which is long enough to be worth keeping")
            assert code == 200
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def _refusal(daemon):
    """The body of a refusal, once requests are refused; every one before it is answered."""
    code, body = daemon.chat("leak")
    assert code in {200, 503}, body
    return body if code == 503 else None
