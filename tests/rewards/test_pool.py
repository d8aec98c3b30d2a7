import os
import subprocess
import sys
import threading
import time

import pytest

from softtokens.rewards.pool import Failure, WorkerPool

GREET = 'import json, os, sys, time; print(json.dumps({"ready": True}), flush=True)\n'
ECHO = GREET + 'for line in sys.stdin: print(json.dumps({"echo": json.loads(line), "pid": os.getpid()}), flush=True)'


def pool_of(script, *, workers=2, timeout_s=20.0):
    return WorkerPool([sys.executable, "-S", "-c", script], workers=workers, timeout_s=timeout_s)


@pytest.fixture
def echo():
    pool = pool_of(ECHO)
    yield pool
    pool.close()


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:  # a zombie is not running
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_answers_come_in_order_from_several_processes_which_are_used_again(echo):
    questions = [{"text": f"{i}\n\0\ud800\u2028"} for i in range(40)]
    answers = echo.ask_all(questions)
    assert [answer["echo"] for answer in answers] == questions
    pids = {answer["pid"] for answer in answers + echo.ask_all(questions)}
    assert len(pids) <= 2 and os.getpid() not in pids


def test_a_megabyte_line_passes(echo):
    assert echo.ask_all([{"text": "{" * 1_000_000}])[0]["echo"]["text"] == "{" * 1_000_000


def test_no_question_starts_no_process():
    pool = pool_of("raise SystemExit('never started')")
    assert pool.ask_all([]) == []


def test_close_ends_the_processes_and_the_pool_can_start_again(echo):
    (before,) = {answer["pid"] for answer in echo.ask_all([{}])}
    echo.close()
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    assert echo.ask_all([{}])[0]["pid"] != before


def test_a_forgotten_pool_ends_its_processes():
    pool = pool_of(ECHO)
    pid = pool.ask_all([{}])[0]["pid"]
    del pool
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.timeout(60)
def test_a_process_that_takes_too_long_is_killed_and_replaced():
    script = ECHO.replace('print(json.dumps({"echo"', "'hang' in line and time.sleep(999); print(json.dumps({\"echo\"")
    pool = pool_of(script, timeout_s=1.0)
    answers = pool.ask_all([{"n": 1}, {"hang": 1}, {"n": 2}, {"hang": 2}, {"n": 3}])
    pool.close()
    assert [answer if isinstance(answer, Failure) else answer["echo"] for answer in answers] == [
        {"n": 1},
        Failure.TIMEOUT,
        {"n": 2},
        Failure.TIMEOUT,
        {"n": 3},
    ]


@pytest.mark.timeout(60)
def test_a_process_that_never_reads_is_killed_too():
    pool = pool_of(GREET + "time.sleep(999)", workers=1, timeout_s=0.5)
    assert pool.ask_all([{"text": "x" * 1_000_000}]) == [Failure.TIMEOUT]
    pool.close()


def test_a_question_that_kills_its_process_gets_one_fresh_process(tmp_path):
    lethal = f"log = open({str(tmp_path / 'starts')!r}, 'a'); log.write('x'); log.close()\n" + ECHO.replace(
        'print(json.dumps({"echo"', "'die' in line and os._exit(3); print(json.dumps({\"echo\""
    )
    pool = pool_of(lethal, workers=1)
    first, second = pool.ask_all([{"die": 1}, {"n": 1}])
    pool.close()
    assert first is Failure.CRASH and second["echo"] == {"n": 1}
    assert (tmp_path / "starts").read_text() == "xxx"


def test_the_question_of_a_killed_process_is_answered_by_the_next(echo):
    pids = {answer["pid"] for answer in echo.ask_all([{}] * 10)}
    for pid in pids:
        os.kill(pid, 9)
    answers = echo.ask_all([{"n": n} for n in range(10)])
    assert [answer["echo"]["n"] for answer in answers] == list(range(10))
    assert not pids & {answer["pid"] for answer in answers}


def test_a_process_killed_at_work_loses_no_answer():
    script = ECHO.replace('print(json.dumps({"echo"', 'time.sleep(0.5); print(json.dumps({"echo"')
    pool = pool_of(script, workers=1)
    pid = pool.ask_all([{}])[0]["pid"]
    killer = threading.Timer(0.2, os.kill, (pid, 9))
    killer.start()
    (answer,) = pool.ask_all([{"n": 1}])
    killer.join()
    pool.close()
    assert answer["echo"] == {"n": 1} and answer["pid"] != pid


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise SystemExit('no such library')", "no such library"),
        ("print('hello', flush=True)", "code 0"),
        ("""print('{"error": "out of luck"}', flush=True)""", "out of luck"),
        ("import os; os._exit(7)", "code 7"),
    ],
)
def test_a_process_that_cannot_start_is_loud(script, message):
    with pytest.raises(RuntimeError, match=f"cannot start.*{message}"):
        pool_of(script).ask_all([{}] * 5)


def test_a_missing_program_is_loud():
    with pytest.raises(RuntimeError, match="cannot start"):
        WorkerPool(["/no/such/program"], workers=1, timeout_s=1).ask_all([{}])


SCRIPT = f"""
import os, sys, time
sys.path[:0] = {sys.path!r}
from softtokens.rewards.pool import WorkerPool
pool = WorkerPool([sys.executable, "-S", "-c", {ECHO!r}], workers=1, timeout_s=20.0)
print(pool.ask_all([{{}}])[0]["pid"], flush=True)
"""


def test_at_exit_the_processes_end(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)  # without a main guard
    process = subprocess.run([sys.executable, "-W", "error", tmp_path / "script.py"], capture_output=True, text=True)
    assert process.returncode == 0 and not process.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.stdout), 0)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.timeout(60)
def test_a_killed_caller_takes_its_processes_along():
    caller = subprocess.Popen([sys.executable, "-c", SCRIPT + "time.sleep(999)"], stdout=subprocess.PIPE)
    pid = int(caller.stdout.readline())
    assert is_running(pid)
    caller.kill()
    caller.wait()
    caller.stdout.close()
    while is_running(pid):
        time.sleep(0.02)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_caller_s_process_alone():
    forked = SCRIPT + (
        "child = os.fork()\n"
        "print(pool.ask_all([{}])[0]['pid'], flush=True)\n"
        "if child: assert os.waitpid(child, 0)[1] == 0; print(pool.ask_all([{}])[0]['pid'])\n"
    )
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", forked], capture_output=True, text=True, check=True)
    first, *others = process.stdout.split()
    assert len(others) == 3 and others.count(first) == 2
