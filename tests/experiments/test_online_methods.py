"""The closed form that an online method is compared with: the quickest of those that are at least as accurate."""

import online_methods


def record(method, seconds, accuracy, **setting):
    setting = {"method": method, "target": "digits", "base_size": 50, "seed": 1, "epochs": 400} | setting
    result = {"cpu_seconds": seconds, "test": {"plain": [accuracy - 1.0, accuracy + 1.0]}}
    result |= {"curve": [], "best_epoch": None, "recipe": {"loss": "mse", "steps": 9}}
    if method != "closed-form":
        result["curve"] = [{"epoch": 5, "validation_mean": accuracy}]
    return {"setting": setting, "result": result}


ONLINE = record("second-order", 1000.0, 80.0)
EQUAL = record("closed-form", 20.0, 80.0)
QUICK = record("closed-form", 8.0, 85.0, target_images=500)


def test_neither_worse_nor_other_base_sets_count():
    worse = record("closed-form", 1.0, 79.9)
    other = record("closed-form", 1.0, 99.0, seed=2)
    larger = record("closed-form", 1.0, 99.0, base_size=100)
    everything = [ONLINE, EQUAL, QUICK, worse, other, larger]
    assert online_methods.quickest(everything, ONLINE) is QUICK
    assert online_methods.quickest([ONLINE, EQUAL, worse], ONLINE) is EQUAL
    assert online_methods.quickest([ONLINE, worse, other, larger], ONLINE) is None


def test_the_page_has_the_ratio_to_it_and_names_it():
    page = online_methods.table([ONLINE, EQUAL, QUICK])
    assert "| second-order | centred | 400 | – | 9 | 80.0 | 80.0 ± 1.4 | – | 1,000 | 125× |" in page
    assert "| closed-form, 500 target images |" in page
    assert "| 1,000 | – |" in online_methods.table([ONLINE])


def test_the_goal_of_speed_says_by_what_it_is_reached():
    mnist = {"target": "mnist", "base_size": 100}
    records = [record("second-order", 1000.0, 86.0, **mnist), record("closed-form", 8.0, 88.0, **mnist)]
    page = online_methods.table(records)
    assert "- second-order: 85.8 % within 400 epochs: reached, 86.0 % after 400." in page
    assert "as fast as second-order: reached, 125× for the epochs that were run" in page
    assert "by closed-form at 88.0 %." in page
    slower = [records[0], record("closed-form", 50.0, 88.0, **mnist)]
    assert "as fast as second-order: not reached, 20×" in online_methods.table(slower)
