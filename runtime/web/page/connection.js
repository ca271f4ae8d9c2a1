// A WebSocket that reconnects by itself, and requests an image only when the page can show one.

const MAX_REQUESTED = 2;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 8000;
const STALL_MS = 2000;
const NORMAL_CLOSE_CODES = new Map([
  [1001, "the program ended"],
  [1008, "this page sent too much"],
  [1013, "too many viewers"],
]);

export class Connection {
  // show(status, jpeg) shows an image and may return a promise; showError(message) shows an error;
  // report(state, text) receives the state: connecting, live, waiting, retrying or locked.
  constructor(url, { show, showError, report }) {
    Object.assign(this, { url, show, showError, report });
    this.retryMs = FIRST_RETRY_MS;
    this.socket = null;
    this.timer = 0;
    document.addEventListener("visibilitychange", () => this.request());
    window.addEventListener("online", () => this.retryNow());
    setInterval(() => this.watch(), 500);
    this.open();
  }

  send(action, value = "") {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ action, value }));
    return true;
  }

  open() {
    clearTimeout(this.timer);
    this.report("connecting", "connecting");
    const socket = new WebSocket(this.url);
    let opened = false;
    let status = null;
    let shown = Promise.resolve();
    this.socket = socket;
    this.requested = 0;
    socket.onopen = () => {
      opened = true;
      this.receivedMs = performance.now();
      this.report("waiting", "connected");
      this.request();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") {
        const message = JSON.parse(data);
        if (message.type === "status") status = message;
        else this.showError(message.message);
        return;
      }
      const itsStatus = status;
      // In order: two images may be decoded at once.
      shown = shown.then(() => this.receive(socket, itsStatus, data));
    };
    socket.onclose = ({ code, reason }) => {
      if (this.socket === socket) this.lost(opened, reason || NORMAL_CLOSE_CODES.get(code) || "connection lost");
    };
  }

  async receive(socket, status, jpeg) {
    if (this.socket !== socket) return;
    this.retryMs = FIRST_RETRY_MS;
    this.receivedMs = performance.now();
    this.report("live", "live");
    try {
      await this.show(status, jpeg);
    } catch {
      this.showError("an image could not be shown");
    }
    if (this.socket !== socket) return;
    this.requested -= 1;
    this.request();
  }

  // A hidden page requests nothing, so it costs the device nothing.
  request() {
    while (!document.hidden && this.requested < MAX_REQUESTED && this.send("next")) this.requested += 1;
  }

  watch() {
    const open = this.socket?.readyState === WebSocket.OPEN;
    if (open && !document.hidden && performance.now() - this.receivedMs > STALL_MS) {
      this.report("waiting", "no new frame");
    }
  }

  async lost(opened, reason) {
    this.socket = null;
    if (!opened && (await isLocked())) {
      this.report("locked", "token needed: open the printed address again");
    } else {
      this.report("retrying", `${reason}; reconnecting`);
    }
    this.timer = setTimeout(() => this.open(), this.retryMs);
    this.retryMs = Math.min(2 * this.retryMs, LAST_RETRY_MS);
  }

  retryNow() {
    if (!this.socket) this.open();
  }
}

async function isLocked() {
  try {
    return (await fetch("./", { method: "HEAD", cache: "no-store" })).status === 401;
  } catch {
    return false;
  }
}
