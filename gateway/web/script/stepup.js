// Step-ups within the page: docs/how-to/spa.md. A request that the gateway answers with its 401 waits while a dialog takes its steps, and is
// sent again. Only the page's own origin and this script's are listened to: nobody else may ask for passwords here.
// What is served is ../static/stepup.js, made of this by `make script`: keep it under 5 kB.
(() => {
  if (window.stepup) return;
  const home = new URL(".", document.currentScript.src);
  const plain = fetch;
  const json = "application/json", change = "readystatechange", end = "loadend";
  const known = (url) => [location.origin, home.origin].includes(new URL(url, document.baseURI).origin);
  const ours = (status, url, type) => status === 401 && known(url) && /problem\+json/.test(type);
  const problem = async (read) => {
    const found = await read().catch(() => ({}));
    return found.step_up_url && known(found.step_up_url) && found;
  };

  // One dialog at a time. `again` repeats the request and gives the problem of its answer, if any. True: that answer counts; false: the first.
  let open;
  const settle = async (asked, again, authorization) => {
    while (open) {
      const { steps, done } = open;
      if (await done) asked = await again();
      else if (steps === `${asked.steps}`) return false;
      if (!asked) return true;
    }
    let tell;
    const mine = open = { steps: `${asked.steps}`, done: new Promise((resolve) => { tell = resolve; }) };
    const close = (passed) => {
      if (open === mine) open = null;
      tell(passed);
    };
    const steps = () => run(asked.step_up_url, authorization);
    let passed;
    try {
      passed = await steps();
      // Of two 401s at once each gave this browser a cookie, and the other one's stayed: that of a repetition is bound to it.
      if (passed === null && (asked = await again())) passed = await steps();
      if (asked?.max_age !== 0) close(passed); // what is asked once is used up by the repetition: others wait for it
      if (passed) await again();
    } finally {
      close(passed);
    }
    return passed || !asked;
  };
  window.stepup = settle; // for what is no fetch and no XHR

  window.fetch = async (input, init) => {
    if (!known(input.url ?? input) || init?.body instanceof ReadableStream) return plain(input, init);
    const request = new Request(input, init);
    const kept = request.clone();
    let answer;
    const send = async (copy) => {
      answer = await plain(copy);
      return ours(answer.status, answer.url, answer.headers.get("content-type")) && problem(() => answer.clone().json());
    };
    const asked = await send(request);
    const first = answer;
    if (!asked) return first;
    const aborted = new Promise((_, reject) => {
      kept.signal.onabort = () => reject(kept.signal.reason);
    });
    const settled = settle(asked, () => send(kept.clone()), kept.headers.get("authorization"));
    return await Promise.race([settled, aborted]) ? answer : first;
  };

  // Keeps the events of a 401 back. The answer to the repetition comes by itself; after a cancel the 401 is told as if it came now.
  window.XMLHttpRequest = class extends XMLHttpRequest {
    #call = {};
    #held;

    constructor() {
      super();
      for (const type of [change, "loadstart", "progress", "load", end]) this.addEventListener(type, this.#hear, true);
    }

    #hear(event) {
      const call = this.#call;
      if (this.readyState > 1 && event.type === change) {
        this.#held = call.waits && ours(this.status, this.responseURL, this.getResponseHeader("content-type"));
      }
      if (this.#held) event.stopImmediatePropagation();
      if (event.type !== end) return;
      const { response } = this;
      const asked = this.#held && problem(async () => this.responseType === "json" ? response : new Response(response).json());
      if (call.met) call.met(asked);
      else if (asked) this.#settle(call, asked);
    }

    async #settle(call, asked) {
      const again = () => this.#call === call && new Promise((resolve) => {
        call.met = resolve;
        this.#held = true;
        super.open(...call.opened);
        for (const header of call.headers) super.setRequestHeader(...header);
        super.send(call.body);
      });
      asked = await asked;
      if (asked && await settle(asked, again, new Headers(call.headers).get("authorization")) || this.#call !== call) return;
      call.waits = false;
      this.#tell(change, "load", end);
    }

    #tell(...types) {
      for (const type of types) this.dispatchEvent(new ProgressEvent(type));
    }

    #begin(call) {
      this.#call.met?.();
      this.#call = call;
      this.#held = false;
    }

    open(...opened) {
      this.#begin({ opened, headers: [], waits: opened.length < 3 || opened[2] });
      super.open(...opened);
    }

    setRequestHeader(...header) {
      super.setRequestHeader(...header);
      this.#call.headers.push(header);
    }

    send(body) {
      this.#call.body = body;
      super.send(body);
    }

    abort() {
      const asking = this.#held && this.readyState === 4;
      this.#begin({});
      super.abort();
      if (asking) this.#tell("abort", end);
    }
  };

  const element = (tag, attributes, ...children) => {
    const made = document.createElement(tag);
    for (const name in attributes) if (attributes[name]) made.setAttribute(name, attributes[name]);
    made.append(...children.filter(Boolean));
    return made;
  };

  // The steps of one transaction in a dialog. Something once the pass holds them; null where the transaction is another browser's.
  const run = async (url, authorization) => {
    const call = async (target, answers) => {
      const headers = { Accept: json, "Content-Type": json };
      if (authorization) headers.Authorization = authorization;
      try {
        const answer = await plain(new URL(target, url), {
          method: answers ? "POST" : "GET", headers, credentials: "include", body: JSON.stringify(answers),
        });
        return answer.status === 204 ? answer : await answer.json();
      } catch {
        return { title: "No connection" };
      }
    };
    const dialog = element("dialog", { "aria-labelledby": "title" });

    // Shows a step, or what else the gateway has to say; gives what follows.
    const show = ({ status, step, error, title, detail, authorize_again: login }) => new Promise((resolve) => {
      const { name, kind, fields = [], actions = [], data = {} } = step ?? {};
      const seen = fields.filter((field) => field.type !== "hidden");
      const works = kind === "captcha" && !error; // by itself, in a worker; the window has the question
      const away = works || data.url || data.enrol || !(seen.length || actions.length);
      const ended = !step && status;
      const said = element("p", { role: "alert", id: "said" }, error?.message ?? detail);
      const link = element("a", { href: url, target: "_blank", class: away && !works && "main" }, "Use a window");
      const inputs = away ? [] : seen.map(({ type, label, help, choices = [], ...others }) => {
        const wrong = error?.field === others.name;
        const attributes = { type, value: type === "checkbox" && "yes", "aria-invalid": wrong, "aria-describedby": wrong && "said", ...others };
        return element("label", { class: type }, label, element("small", 0, help), element(
          choices.length ? "select" : type === "textarea" ? type : "input", attributes,
          ...choices.map((choice) => element("option", { value: choice.value ?? choice }, choice.label ?? choice)),
        ));
      });
      const form = element("form", 0,
        element("h2", { id: "title" }, step?.title ?? title ?? "Not confirmed"),
        element("p", { role: "status" }, step?.notice ?? step?.lead),
        said,
        element("pre", { tabindex: "0" }, data.text),
        ...inputs,
        (step ? !away : !ended) && element("button", { class: "main" }, step ? "Continue" : "Try again"),
        ...actions.map(({ action, label }) => element("button", { name: "action", value: action, formnovalidate: true }, label)),
        step && link,
        login && element("a", { href: login, class: "main" }, "Sign in"),
        element("button", { type: "button" }, ended ? "Close" : "Cancel"));

      let timer, worker;
      const go = (next) => {
        clearInterval(timer);
        worker?.terminate();
        resolve(next);
      };
      const send = (answers) => {
        form.inert = true;
        go(call(url, answers));
      };
      const leave = (event) => {
        event.preventDefault();
        if (!ended) call(url, { action: "cancel" });
        go();
      };
      form.onsubmit = (event) => {
        event.preventDefault();
        send(step && Object.fromEntries(new FormData(form, event.submitter)));
      };
      form.lastChild.onclick = dialog.oncancel = leave;
      // In the window the steps go on as pages: look how far they are.
      link.onclick = () => {
        said.textContent = "Waiting for the window.";
        timer ??= setInterval(async () => {
          const now = await call(url);
          if (now.status && now.step?.name !== name) go(now);
        }, 2000);
      };
      if (works) {
        try {
          worker = new Worker(new URL("-/captcha/captcha-worker.js", home));
          worker.onmessage = ({ data: { solution } }) => {
            if (solution) send({ altcha: btoa(JSON.stringify({ challenge: data, solution })) });
          };
          worker.postMessage(data.parameters);
        } catch {} // not by the page's policy
      }
      dialog.replaceChildren(form);
      if (!dialog.open) dialog.showModal();
      (form.querySelector("[aria-invalid]") ?? form.querySelector("input,select,textarea,a,button")).focus();
    });

    const host = element("div");
    host.attachShadow({ mode: "open" }).append(element("link", { rel: "stylesheet", href: new URL("stepup-dialog.css", home) }), dialog);
    document.documentElement.append(host);
    let page = await call(url);
    // "used": the window was faster. 409: the rules, run again, have asked for more.
    while (page && page.status !== 204 && page.error?.code !== "used") {
      page = await (page.status === "passed" ? call(page.continue) : page.status === 409 ? call(url)
        : page.error === "not_yours" ? null : show(page));
    }
    dialog.close();
    host.remove();
    return page;
  };
})();
