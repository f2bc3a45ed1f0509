"""What an agent holds, under every order of events: one process per slot, every outcome told until acknowledged."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coriolis.agent.assignment import Assignment
from coriolis.agent.task_state import (
    HeldMap,
    Instruction,
    Outcome,
    Phase,
    ReportOutcome,
    StartProcess,
    StopProcess,
    on_ack,
    on_assign,
    on_exit,
    on_withdraw,
    slot,
)


def assignment(task: int, role: str, generation: int) -> Assignment:
    return Assignment(
        assignment_id=f"task-{task}:{role}:{generation}",
        project_id="p",
        migration_id="m",
        task_id=f"task-{task}",
        task_type="REPLICATE_DISKS",
        instance="vm",
        instance_index=0,
        role=role,
        generation=generation,
        epoch=1,
        provider="image",
        input={},
    )


class AgentMachine(RuleBasedStateMachine):
    """Runs the instructions with pretended processes, and remembers what the coordinator was told."""

    def __init__(self) -> None:
        super().__init__()
        self.held: HeldMap = {}
        self.processes: dict[str, Assignment] = {}
        self.stopping: set[str] = set()
        self.ended: set[str] = set()
        self.told: set[str] = set()
        self.acked: set[str] = set()
        self.dropped: set[str] = set()
        self.generation = 0

    def obey(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case StartProcess(each):
                    taken = {slot(other) for other in self.processes.values()}
                    assert slot(each) not in taken, "two processes of one slot"
                    assert each.assignment_id not in self.ended, "an attempt never runs twice"
                    self.processes[each.assignment_id] = each
                case StopProcess(key):
                    assert key in self.processes
                    assert key not in self.stopping, "stopped once"
                    self.stopping.add(key)
                case ReportOutcome(key, outcome):
                    assert key in self.ended
                    if key in self.stopping:
                        assert outcome.error_code == "cancelled"
                    self.told.add(key)

    @rule(task=st.integers(0, 2), role=st.sampled_from(["", "sink", "source"]))
    def assign(self, task: int, role: str) -> None:
        self.generation += 1
        wanted = assignment(task, role, self.generation)
        self.held, instructions = on_assign(self.held, wanted)
        self.obey(instructions)
        again, nothing = on_assign(self.held, wanted)
        assert again is self.held
        assert nothing == []

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 100))
    def withdraw(self, pick: int) -> None:
        key = sorted(self.held)[pick % len(self.held)]
        phase = self.held[key].phase
        self.held, instructions = on_withdraw(self.held, key)
        self.obey(instructions)
        if phase in (Phase.WAITING, Phase.FINISHED):
            assert key not in self.held
            self.dropped.add(key)

    @rule()
    def withdraw_what_is_not_held(self) -> None:
        assert on_withdraw(self.held, "unknown") == (self.held, [])
        assert on_ack(self.held, "unknown") is self.held
        assert on_exit(self.held, "unknown", Outcome()) == (self.held, [])

    @precondition(lambda self: self.processes)
    @rule(pick=st.integers(0, 100), failed=st.booleans())
    def exit(self, pick: int, failed: bool) -> None:
        key = sorted(self.processes)[pick % len(self.processes)]
        del self.processes[key]
        self.ended.add(key)
        self.held, instructions = on_exit(self.held, key, Outcome(error_code="corrupt" if failed else ""))
        self.obey(instructions)
        assert key in self.told, "an end is told at once"

    @precondition(lambda self: self.told)
    @rule(pick=st.integers(0, 100))
    def acknowledge(self, pick: int) -> None:
        key = sorted(self.told)[pick % len(self.told)]
        self.held = on_ack(self.held, key)
        self.acked.add(key)
        assert key not in self.held

    @invariant()
    def what_runs_is_held_and_what_ended_is_kept_until_acknowledged(self) -> None:
        running = {key for key, each in self.held.items() if each.phase in (Phase.RUNNING, Phase.ENDING)}
        assert running == set(self.processes)
        finished = {key for key, each in self.held.items() if each.phase is Phase.FINISHED}
        assert finished == self.ended - self.acked - self.dropped
        assert all(self.held[key].outcome is not None for key in finished)

    @invariant()
    def nothing_waits_for_an_empty_slot(self) -> None:
        taken = {slot(each) for each in self.processes.values()}
        waiting = [slot(each.assignment) for each in self.held.values() if each.phase is Phase.WAITING]
        assert len(waiting) == len(set(waiting)), "only the newest attempt waits"
        assert set(waiting) <= taken

    def teardown(self) -> None:
        """Once every process has ended, the newest attempt of each slot has run."""
        for _ in range(1000):
            if not self.processes:
                break
            self.exit(0, False)
        assert not any(each.phase is not Phase.FINISHED for each in self.held.values())


TestAgent = AgentMachine.TestCase
TestAgent.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
