import os
import signal
import threading

import pytest

from posttrain.training.interrupt import AbandonedError, catch_stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_is_a_request_and_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with catch_stop_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal_name == number.name
    assert signal.getsignal(number) is before
    assert f"{number.name}: saving after this step" in capfd.readouterr().err


def test_ctrl_c_after_another_signal_stops_at_once(capfd):
    with catch_stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_a_launcher_sends_after_ctrl_c_does_not_cut_the_saving(capfd):
    with catch_stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_name == "SIGINT"


def test_what_may_be_given_up_is_given_up_at_once_and_nothing_else(capfd):
    done = []

    def work(name, number=None):
        with stop.cutting():
            if number:
                os.kill(os.getpid(), number)
            done.append(name)

    with catch_stop_signals() as stop:
        work("whole")
        with pytest.raises(AbandonedError):
            work("cut by the signal", signal.SIGTERM)
        with pytest.raises(AbandonedError):
            work("begun after it")
    assert done == ["whole"]


def test_the_alarm_is_told_by_the_name_of_its_setting(capfd):
    with catch_stop_signals() as stop:
        signal.raise_signal(signal.SIGALRM)
        assert stop
    assert "stop_after_minutes: saving after this step" in capfd.readouterr().err


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with catch_stop_signals() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
