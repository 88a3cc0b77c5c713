/* The search of the site runs in a worker, and a browser starts none for a page that was opened as a
   file. There, a hidden frame takes its place: the same script, asked and answering by events. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      // Inside, what a worker posts is meant for the page, and scripts are loaded one by one.
      this.inner.postMessage = (data) => this.tell(this, data);
      this.inner.importScripts = (...scripts) => Promise.all(scripts.map((one) => this.load(one)));
      this.ready = this.load(address);
    }

    load(address) {
      return new Promise((resolve, reject) => {
        const script = this.inner.document.createElement("script");
        script.src = address;
        script.onload = resolve;
        script.onerror = reject;
        this.inner.document.body.append(script);
      });
    }

    postMessage(data) {
      this.ready.then(() => this.tell(this.inner, data));
    }

    tell(whom, data) {
      const event = new MessageEvent("message", { data });
      whom.dispatchEvent(event);
      if (whom === this && this.onmessage) this.onmessage(event);
    }

    terminate() {
      this.inner.frameElement.remove();
    }
  };
}
