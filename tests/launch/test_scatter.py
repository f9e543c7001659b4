import pytest

from launch.scatter import LEFT, RIGHT, WIDTH, Point, linear_ticks, log_ticks, scatter


def test_a_logarithmic_axis_puts_equal_ratios_at_equal_distances() -> None:
    marks = scatter([Point(ms, 0.9, "tried", "") for ms in (0.5, 1.0, 2.0)]).marks
    assert marks[1].x - marks[0].x == pytest.approx(marks[2].x - marks[1].x, abs=0.11)
    assert LEFT < marks[0].x < marks[2].x < WIDTH - RIGHT


def test_more_accurate_is_higher() -> None:
    low, high = scatter([Point(1, 0.8, "tried", ""), Point(1, 0.9, "tried", "")]).marks
    assert high.y < low.y


def test_the_front_is_drawn_in_steps_without_dominated_points() -> None:
    points = [Point(1, 0.8, "student", ""), Point(2, 0.7, "student", ""), Point(4, 0.9, "student", "")]
    plot = scatter(points)
    first, _, last = plot.marks
    assert plot.measured_line == f"{first.x},{first.y} {last.x},{first.y} {last.x},{last.y}"
    assert plot.predicted_line == ""


def test_one_point_alone_is_a_plot() -> None:
    plot = scatter([Point(1.0, 0.9, "teacher", "")])
    assert len(plot.marks) == 1
    assert plot.x_ticks
    assert plot.y_ticks


def test_a_limit_outside_the_plot_is_not_drawn() -> None:
    points = [Point(1.0, 0.9, "teacher", "")]
    assert scatter(points, 50.0).limit_x is None
    assert scatter(points, 1.1).limit_x is not None


def test_ticks_are_round_and_within_bounds() -> None:
    assert log_ticks(0.19, 7.0) == [0.2, 0.5, 1.0, 2.0, 5.0]
    assert log_ticks(2.2, 19.0) == [5.0, 10.0, 15.0]
    assert linear_ticks(0.806, 0.914) == [0.82, 0.84, 0.86, 0.88, 0.9]
    for low, high in [(0.5, 0.505), (0.0, 1.0), (0.8999, 0.9001)]:
        ticks = linear_ticks(low, high)
        assert 3 <= len(ticks) <= 8
        assert low <= ticks[0] < ticks[-1] <= high
