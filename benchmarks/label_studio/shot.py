"""A task's page of Label Studio in headless Chromium, as a picture: python shot.py PAGE EMAIL PASSWORD PNG.

Runs in an environment that has playwright. Prints how many regions of the first annotation the page lists.
"""

import sys
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

address, email, password, place = sys.argv[1:]
site = f"{urlsplit(address).scheme}://{urlsplit(address).netloc}"
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1600, "height": 2000})  # the list draws what is seen alone
    page.goto(f"{site}/user/login/")
    page.fill("input[name=email]", email)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_load_state("networkidle")
    page.goto(address)
    page.wait_for_selector("canvas", timeout=60_000)
    page.wait_for_timeout(5_000)
    page.screenshot(path=place)
    page.screenshot(path=place.replace("page.png", "canvas.png"), clip=page.locator("canvas").first.bounding_box())
    print(page.locator(".lsf-outliner-item__title").count())
    browser.close()
