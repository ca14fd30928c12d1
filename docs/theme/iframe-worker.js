/* Search runs in a worker, and browsers refuse workers to pages opened as files. Such a page gets a
   stand-in here: a hidden frame that runs the worker's script and passes messages on. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = "<!doctype html><title>search</title>"
      this.inside = new Promise((resolve) => {
        frame.onload = () => {
          const inner = frame.contentWindow
          inner.postMessage = (data) =>
            setTimeout(() => this.dispatchEvent(new MessageEvent("message", { data })))
          const script = inner.document.createElement("script")
          script.src = address
          script.onload = () => resolve(inner)
          inner.document.body.append(script)
        }
      })
      document.body.append(frame)
    }

    postMessage(data) {
      this.inside.then((inner) => inner.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
