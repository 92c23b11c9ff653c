"""What matching a pair costs."""

from saot.tables.match.pair_results import Watch


def test_memory_on_a_gpu_is_the_gpus(monkeypatch):
    told = []
    held = iter([100 * 2**20, 350 * 2**20])
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: told.append("wait"))
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: told.append(f"reset {device}"))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: next(held))
    watch = Watch("cuda:1")
    assert watch.read()[1] == 250 and told == ["wait", "reset cuda:1", "wait"]
