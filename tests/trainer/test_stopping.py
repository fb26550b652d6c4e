import os
import signal
import threading

import pytest

from trainer.stopping import SIGNALS, Stopped, StopRequest


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_raised_by_the_next_check(number: signal.Signals):
    with StopRequest() as stop:
        stop.check()
        send(number)
        with pytest.raises(Stopped, match=number.name) as caught:
            stop.check()
    assert caught.value.signal_name == number.name


def test_a_signal_interrupts_waiting_at_once():
    with StopRequest() as stop:
        waiting = stop.waiting()
        waiting.__enter__()
        with pytest.raises(Stopped):
            send(signal.SIGTERM)


def test_a_signal_before_waiting_is_not_lost():
    with StopRequest() as stop:
        send(signal.SIGUSR1)
        with pytest.raises(Stopped, match="SIGUSR1"), stop.waiting():
            pytest.fail("began to wait")


def test_after_waiting_a_signal_is_only_noted():
    with StopRequest() as stop:
        with stop.waiting():
            pass
        send(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()


def test_items_are_cut_off_by_a_signal():
    seen = list[int]()

    def see(item: int) -> None:
        seen.append(item)
        if item == 2:
            send(signal.SIGTERM)

    with StopRequest() as stop, pytest.raises(Stopped):
        list(map(see, stop.between(range(5))))
    assert seen == [0, 1, 2]


def test_a_second_interrupt_is_ordinary():
    with StopRequest():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_thread_installs_nothing():
    errors = list[BaseException]()

    def enter() -> None:
        try:
            with StopRequest() as stop:
                stop.check()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert errors == []


def test_stopping_is_no_exception_that_code_on_the_way_would_catch():
    assert not issubclass(Stopped, Exception)
