"""Drives pages in Chromium, without a network. `Browser` reads the screen and operates it as a person does."""

import shutil
from pathlib import Path

import pytest

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Debian's packages chromium and chromium-driver are not installed"
)
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--lang=en-US",
    "--app=data:text/html,",  # a window without tabs and a toolbar, whose drawing takes a third of the time of a page
)
_TWO_FRAMES = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(null)));"

_READY = """
const done = arguments[0];
const wait = () => document.body.dataset.ready ? done(null) : requestAnimationFrame(wait);
wait();
"""
_OPEN = "const found = document.querySelector(arguments[0]); found.open = true;"
_TABLE = """
const rows = [...document.querySelectorAll(`${arguments[0]} tr`)];
return rows.map((row) => [...row.children].map((cell) => cell.textContent));
"""


class Browser:
    """A Chromium window of 1280 x 900 pixels."""

    def __init__(self):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in _ARGUMENTS:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(30)

    def close(self):
        self.driver.quit()

    def resize(self, width=1280, height=900, scheme="light"):
        """Sets the size of the window in pixels, and the color scheme of the system."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, page: Path | str, address: str = ""):
        """Opens a file or an address and waits until the page is drawn. `address` is the part from '#' on."""
        self.driver.get_log("browser")
        self.driver.get("about:blank")  # a page that differs only after '#' would not be loaded again
        self.driver.get((page.as_uri() if isinstance(page, Path) else page) + address)
        self.driver.execute_async_script(_READY)
        self.settle()

    def settle(self):
        """Waits until what was changed is drawn."""
        self.driver.execute_async_script(_TWO_FRAMES)

    def run(self, script: str, *arguments):
        """Runs a script in the page, and returns its result."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """Returns the texts of all elements that match, shown or not."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector)

    def click(self, selector: str):
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()
        self.settle()

    def hover(self, selector: str):
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        ActionChains(self.driver, duration=0).move_to_element(self.find(selector)).perform()
        self.settle()

    def press(self, *keys: str):
        """Presses keys one after another: 'Tab', 'ArrowRight', 'Shift+Tab', 'a'."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        names = {"Tab": Keys.TAB, "Enter": Keys.ENTER, "Space": Keys.SPACE, "Escape": Keys.ESCAPE, "Home": Keys.HOME}
        names |= {f"Arrow{side}": getattr(Keys, f"ARROW_{side.upper()}") for side in ("Left", "Right", "Up", "Down")}
        names |= {"End": Keys.END, "Backspace": Keys.BACKSPACE, "Delete": Keys.DELETE}
        for key in keys:
            *held, last = key.split("+") if key != "+" else ["+"]
            action = ActionChains(self.driver, duration=0)
            for name in held:
                action.key_down(getattr(Keys, name.upper()))
            action.send_keys(names.get(last, last))
            for name in held:
                action.key_up(getattr(Keys, name.upper()))
            action.perform()
            self.settle()

    def choose(self, name: str, value: str):
        """Chooses an option of the list `name`."""
        from selenium.webdriver.support.select import Select

        Select(self.find(f'select[name="{name}"]')).select_by_value(value)
        self.settle()

    def table(self, selector: str) -> list[list[str]]:
        """Opens the table behind a picture, if it is closed, and returns the texts of its rows."""
        self.run(_OPEN, selector)
        self.settle()
        return self.run(_TABLE, selector)

    def messages(self) -> list[str]:
        """Returns the messages of the console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Returns the addresses of everything that the page requested, without data: and blob: addresses."""
        names = self.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        return [name for name in names if not name.startswith(("data:", "blob:"))]
