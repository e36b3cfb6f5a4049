// The page's side of the captcha: starts the worker, shows how far it is, submits when it is done.
// Without this script the question stays open and the form works as it stands.

const root = document.querySelector("[data-captcha]");
const part = (name) => root.querySelector(`[data-captcha-${name}]`);

function start() {
  const form = root.closest("form");
  const field = root.querySelector('input[name="altcha"]');
  const [run, progress, status, retry, question] = ["run", "progress", "status", "retry", "question"].map(part);
  const answer = question?.querySelector("input");
  const challenge = JSON.parse(root.dataset.challenge);

  run.hidden = false;
  part("plain")?.remove();
  if (answer) {
    part("instead").hidden = false;
    answer.required = false;
    question.open = answer.getAttribute("aria-invalid") === "true";
  }

  // The check sends by itself. There is something to press only for who answers the question, or after an error.
  const buttons = form.querySelector(".buttons");
  const offer = () => {
    buttons.hidden = root.dataset.paused === undefined && !question?.open;
  };
  question?.addEventListener("toggle", offer);
  offer();

  const fail = (message) => {
    progress.parentElement.hidden = true;
    status.textContent = message;
    retry.hidden = false;
    if (question) question.open = true;
  };

  const worker = new Worker(root.dataset.worker);
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    fail("The check could not run in this browser.");
  });
  worker.addEventListener("message", ({ data }) => {
    if (data.progress !== undefined) {
      progress.value = data.progress;
      return;
    }
    worker.terminate();
    if (!data.solution) {
      fail("The check did not succeed.");
      return;
    }
    progress.value = 100;
    field.value = btoa(JSON.stringify({ challenge, solution: data.solution }));
    // After an error, or while somebody answers the question, sending by itself would take the page away from under them.
    if (root.dataset.paused !== undefined || answer?.value || (answer && document.activeElement === answer)) {
      status.textContent = "The check is done. You can continue.";
      return;
    }
    status.textContent = "Done. One moment.";
    form.requestSubmit();
  });
  status.textContent = "There is nothing for you to do.";
  worker.postMessage(challenge.parameters);
}

// A page that comes back from the back/forward cache holds a proof that was used.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.replace(root.closest("form").action);
});

start();
