"""Where the pages' commands run: /stage has a checkout and `config/`, the machine has OpenClaw installed; a simulated Feishu."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

STAGE = Path("/stage")
FEISHU = "http://127.0.0.1:9399"
SERVING = re.compile(r"(?:^|&& )openclaw (?:run|ingest|worker|sim|-c)\b[^&]*$")
PATIENCE = 60


def status(url, method="GET"):
    """The HTTP status; 0 without an answer."""
    try:
        request = urllib.request.Request(url, None if method == "GET" else b"{}", method=method)
        with urllib.request.urlopen(request, timeout=3) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def said(url):
    with urllib.request.urlopen(url, timeout=3) as answer:
        return answer.read().decode()


class Stage:
    def __init__(self):
        self.cwd = STAGE
        self.log = Path("/shared/stage.log")
        self.live, self.feishu = [], None

    def __enter__(self):
        os.environ["OPENCLAW_FEISHU__BASE_URL"] = FEISHU
        # What the examples leave to the reader.
        names = ("APP_SECRET", "VERIFICATION_TOKEN", "ENCRYPT_KEY")
        os.environ.update({f"BOT{bot}_{name}": "a-secret-for-a-try" for bot in (1, 2) for name in names})
        self.feishu = self.start(f"openclaw sim --listen {FEISHU[7:]} --no-limits")
        wait(lambda: status(f"{FEISHU}/sim/ledger") == 200)
        self.dead_letters(17)
        return self

    def dead_letters(self, count):
        """Something for `openclaw dlq` to do: the platform refuses for good."""
        self.busy()
        rule = json.dumps({"fault": "code", "code": 230002}).encode()
        request = urllib.request.Request(f"{FEISHU}/sim/faults", rule, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=3).close()
        push = [sys.executable, "dev.d/push.py", "http://127.0.0.1:9001/webhook/bot1", "config/bot1/credentials.yaml", FEISHU, str(count)]
        subprocess.run(push, cwd=STAGE, env=os.environ | {"PUSH_ONLY": "1"}, check=True)
        metric = f'openclaw_dead_letters_total{{class="permanent"}} {count}'
        if not wait(lambda: metric in said("http://127.0.0.1:9091/metrics")):
            sys.exit("the stage has no dead letters")
        urllib.request.urlopen(urllib.request.Request(f"{FEISHU}/sim/faults", method="DELETE"), timeout=3).close()
        self.still()

    def __exit__(self, *_):
        self.still()
        stop(self.feishu)

    def start(self, command):
        with self.log.open("a") as log:
            return subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=STAGE, stdout=log, stderr=log)

    def begin(self, folder, text):
        """Commands of a page begin at the top of the checkout; one in a file's comment beside the file, if it names one there."""
        beside = STAGE / folder
        self.cwd = beside if any((beside / word).is_file() for word in text.split()) else STAGE

    def run(self, text):
        """Runs one command; what went wrong, or None."""
        if text.startswith("cd "):
            self.cwd = self.cwd / text[3:]
            return None if self.cwd.is_dir() else f"`{text}`: there is no such folder"
        if text.startswith("curl "):
            self.busy()
        elif text.startswith("supervisorctl "):
            self.supervised()
        else:
            self.still()
        if SERVING.search(text):
            return self.serve(text)
        if text.startswith("systemctl enable --now "):
            return self.unit(text)
        command = ["timeout", str(PATIENCE), "bash", "-euc", text]
        done = subprocess.run(command, cwd=self.cwd, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"`{text}` ends with {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}"
        return None

    def serve(self, text):
        """A command that goes on until it is told to stop, and then ends with 0."""
        port = re.search(r"--port (\d+)", text)
        url = "http://127.0.0.1:9300/sim/ledger" if "sim" in text else f"http://127.0.0.1:{port[1] if port else 9001}/readyz"
        running = subprocess.Popen(["bash", "-euc", text], cwd=self.cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        came = wait(lambda: status(url) == 200 or running.poll() is not None)
        if running.poll() is None:
            os.kill(serving(running.pid), signal.SIGTERM)
        said, _ = running.communicate(timeout=60)
        if not came or running.returncode:
            return f"`{text}` {'ends with ' + str(running.returncode) if came else 'does not come up'}: {said.strip()[-600:]}"
        return None

    def unit(self, text):
        """A unit that comes up, and whose stop is a clean end."""
        name = text.split()[-1]
        done = subprocess.run(["bash", "-euc", text], capture_output=True, text=True, check=False)
        came = done.returncode == 0 and wait(lambda: status("http://127.0.0.1:9001/readyz") == 200)
        subprocess.run(["systemctl", "stop", name], check=False)
        result = subprocess.run(["systemctl", "show", "-P", "Result", name], capture_output=True, text=True, check=False)
        if came and result.stdout.strip() == "success":
            return None
        said = subprocess.run(["journalctl", "-u", name, "-n", "20", "--no-pager"], capture_output=True, text=True, check=False)
        return f"`{text}`: {done.stderr.strip()} {result.stdout.strip()} {said.stdout[-1500:]}"

    def busy(self):
        """A node on its usual ports, and nginx in front of it with the file as it is."""
        if not self.live:
            self.live = [self.start("openclaw run -c config/"), self.start("nginx -c $PWD/deploy/nginx/nginx.conf -g 'daemon off; master_process off;'")]
            wait(lambda: status("http://127.0.0.1:9001/readyz") == 200 and status("http://127.0.0.1:8080/nginx-health") == 204)

    def supervised(self):
        """Debian's supervisord with its own configuration and ours, both as they are."""
        if not self.live:
            self.live = [self.start("supervisord -n -c /etc/supervisor/supervisord.conf")]
            wait(lambda: all(status(f"http://127.0.0.1:900{bot}/readyz") == 200 for bot in (1, 2, 3)))

    def still(self):
        for process in self.live:
            stop(process)
        self.live = []

    def takes(self, servers, snippet=""):
        """Whether a configuration with these servers and these lines is a right one: what is wrong, or None."""
        folder = STAGE / "taken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(STAGE / "config" / "bot1", folder / "bot1")
        (folder / "config.yaml").write_text(snippet)
        if "backend:" not in snippet:
            lines = "".join(f'    {kind}_url: "{url}"\n' for kind, url in servers.items())
            (folder / "config.yaml").write_text(f"{snippet}\nbackend:\n  distributed:\n{lines}")
        check = ["openclaw", "check", "-c", str(folder), "--offline"]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        return f"not taken: {done.stderr.strip()}" if done.returncode else None

    def served(self, path, method=None):
        """Whether a node, its metrics port or the simulated Feishu knows that path: what went wrong, or None."""
        self.busy()
        path = urllib.parse.quote(path.replace("{bot}", "bot1"), safe="/?=&:{}")
        places = [FEISHU] if path.startswith(("/sim/", "/open-apis/")) else ["http://127.0.0.1:9001", "http://127.0.0.1:9091"]
        for place in places:
            for asked in [method] if method else ["GET", "POST"]:
                if status(place + path, asked) not in (0, 403, 404, 405):
                    return None
        return f"nobody serves {path}"


def serving(pid):
    """The program that a shell waits for; the shell itself when it became it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def wait(done):
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def stop(process):
    process.terminate()
    process.wait(60)
