// What makes an interstitial more pleasant. Every page works without it.
"use strict";
(() => {
  const words = (seconds) => {
    const [amount, unit] = seconds < 60 ? [seconds, "second"] : [Math.ceil(seconds / 60), "minute"];
    return `${amount} ${unit}${amount === 1 ? "" : "s"}`;
  };
  // Counts by the clock, so that a tab that slept is right when it wakes.
  const countdown = (seconds, tick) => {
    const end = Date.now() + seconds * 1000;
    const timer = setInterval(step, 1000);
    function step() {
      const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
      if (left === 0) clearInterval(timer);
      tick(left);
    }
    step();
  };
  const answers = [...document.querySelectorAll("form.answer button")];
  const busy = (form, on) => {
    for (const button of form.querySelectorAll("button")) {
      if (on) button.setAttribute("aria-disabled", "true");
      else button.removeAttribute("aria-disabled");
    }
  };

  // A second click sends nothing. Listens at the document, behind a step's own script, which may stop the event.
  const sent = new WeakSet();
  const main = answers.find((button) => button.name !== "action");
  let held = null; // the button of the answer's form that has to wait
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("[data-stepup-form]") || event.defaultPrevented) return;
    if (sent.has(form) || (held && form === held.form && (event.submitter || main) === held)) {
      event.preventDefault();
      return;
    }
    sent.add(form);
    busy(form, true);
  });
  // Back from the next page: the form is alive again.
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const form of document.querySelectorAll("[data-stepup-form]")) {
      sent.delete(form);
      busy(form, false);
    }
    held?.setAttribute("aria-disabled", "true");
  });

  // Too soon or too often: hold the button until it can succeed, the answer's or that of a single action; the others stay open.
  const wait = document.querySelector("[data-stepup-wait]");
  if (wait) {
    const action = wait.dataset.stepupHolds;
    held = (action ? answers.find((button) => button.value === action) : main) ?? null;
    held?.setAttribute("aria-disabled", "true");
    countdown(Number(wait.dataset.stepupWait), (left) => {
      if (left > 0) {
        wait.textContent = words(left);
        return;
      }
      held?.removeAttribute("aria-disabled");
      held = null;
      const sentence = wait.parentElement;
      sentence.setAttribute("role", "status");
      sentence.textContent = `You can ${action ? "ask" : "try"} again now.`;
    });
  }

  // Codes come out of mails and apps as "123 456" or "123-456".
  for (const input of document.querySelectorAll("input[autocomplete=one-time-code]")) {
    input.addEventListener("paste", (event) => {
      const text = event.clipboardData.getData("text");
      event.preventDefault();
      input.setRangeText(text.replace(/[\s\-\u2010-\u2015\u200b-\u200d\ufeff]/g, ""), input.selectionStart, input.selectionEnd, "end");
      input.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }

  const expiry = document.querySelector("[data-stepup-expires]");
  if (expiry) {
    let said = "";
    countdown(Number(expiry.dataset.stepupExpires), (left) => {
      const say = left === 0
        ? "The time is up: this request is no longer kept. Go back and start it again."
        : left <= 60 ? "Less than a minute left to finish this." : "";
      if (say !== said) expiry.textContent = said = say;
    });
  }
})();
