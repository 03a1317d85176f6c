#!/usr/bin/python3
"""Looks at the exporter's page in a headless Chromium, over its debugging protocol.

status.py URL FOLDER AXE: prints the outcome as JSON; pictures go to FOLDER, AXE is axe-core's script.
Needs Debian's chromium and python3-websocket. Whatever is seen is printed; the caller judges it."""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

import websocket


class Browser:
    def __init__(self, scratch):
        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             "--remote-allow-origins=*", "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
             f"--user-data-dir={scratch}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = os.path.join(scratch, "DevToolsActivePort")
        end = time.time() + 60
        while not (os.path.exists(port_file) and open(port_file).read().count("\n")):
            if time.time() > end or self.process.poll() is not None:
                raise SystemExit("chromium does not start")
            time.sleep(0.1)
        self.port = int(open(port_file).read().split()[0])

    def tab(self):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        return Tab(json.load(urllib.request.urlopen(request))["webSocketDebuggerUrl"])

    def close(self):
        self.process.terminate()
        self.process.wait()


class Tab:
    def __init__(self, url):
        self.socket = websocket.create_connection(url, timeout=60)
        self.number, self.events = 0, []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise SystemExit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression[:80]}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, url, width, height, scheme, script=True):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=url)
        # A page that does not load runs into the socket's time limit.
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def picture(self, path, whole=True):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def complaints(self):
        """Console errors, exceptions, and what the page asked of the network."""
        errors, requests = [], []
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                errors.append(str(parameters["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                errors.append(str(parameters["args"]))
            elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            elif method == "Network.requestWillBeSent":
                requests.append(parameters["request"]["url"])
        return errors, requests


def accessibility(tab, axe):
    tab.evaluate(axe)
    run = "axe.run(document,{runOnly:['wcag2a','wcag2aa','wcag21a','wcag21aa','best-practice']})"
    violations = tab.evaluate(f"{run}.then(found=>JSON.stringify(found.violations.map(v=>"
                              "[v.id,v.impact,v.nodes.map(n=>n.html.slice(0,120)+' '+n.failureSummary)])))")
    return json.loads(violations)


def main():
    url, folder, axe = sys.argv[1], sys.argv[2], open(sys.argv[3]).read()
    os.makedirs(folder, exist_ok=True)
    outcome = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        browser = Browser(scratch)
        try:
            for name, width, height, scheme in [("light", 1280, 800, "light"), ("dark", 1280, 800, "dark"),
                                                ("narrow", 360, 740, "light"), ("narrow-dark", 360, 740, "dark")]:
                tab = browser.tab()
                tab.open(url, width, height, scheme)
                tab.picture(os.path.join(folder, f"status-{name}.png"))
                errors, requests = tab.complaints()
                outcome[name] = {
                    "errors": errors,
                    "requests": requests,
                    "text": tab.evaluate("document.body.innerText"),
                    "width": tab.evaluate("document.documentElement.scrollWidth"),
                    "background": tab.evaluate("getComputedStyle(document.body).backgroundColor"),
                    "axe": accessibility(tab, axe),
                }
            # It takes in new values in place: what has the focus keeps it, and what is open stays open.
            tab = browser.tab()
            tab.open(url, 1280, 800, "light")
            tab.evaluate("document.querySelector('nav a').focus();"
                         "var skipped=document.getElementById('skipped');if(skipped)skipped.open=true;"
                         "window.table=document.querySelector('table');window.seen=document.querySelector('time').dateTime;")
            end = time.time() + 60
            while time.time() < end and tab.evaluate("document.querySelector('time').dateTime===window.seen"):
                time.sleep(0.2)
            errors, requests = tab.complaints()
            outcome["refreshed"] = {
                "errors": errors,
                "requests": requests,
                "has_new_time": tab.evaluate("document.querySelector('time').dateTime!==window.seen"),
                "is_same_table": tab.evaluate("window.table===document.querySelector('table')"),
                "focus": tab.evaluate("document.activeElement.textContent"),
                "is_open": tab.evaluate("document.getElementById('skipped').open"),
                "age": tab.evaluate("document.getElementById('age').textContent"),
            }
            # The links are reached by keyboard, and the one that has the focus is seen.
            tab.evaluate("document.activeElement.blur()")
            reached = []
            for _ in range(8):
                for kind in ("keyDown", "keyUp"):
                    tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
                reached.append(tab.evaluate("document.activeElement.textContent.slice(0,40)"))
            outcome["reached"] = reached
            outcome["outline"] = tab.evaluate("document.querySelector('nav a').focus({focusVisible:true}),"
                                              "getComputedStyle(document.activeElement).outlineStyle")
            tab = browser.tab()
            tab.open(url, 1280, 800, "light", script=False)
            outcome["without_script"] = {"errors": tab.complaints()[0]}
            tab.picture(os.path.join(folder, "status-without-script.png"))
        finally:
            browser.close()
    json.dump(outcome, sys.stdout)


main()
