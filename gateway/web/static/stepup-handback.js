// Hands an authorization error back to the client, in the way in which it asked for its answer.
"use strict";
(() => {
  const form = document.querySelector("[data-stepup-handback]");
  if (form.dataset.stepupHandback === "form") {
    form.submit();
    return;
  }
  // OAuth 2.0 Web Message Response Mode: to the page that opened this one, or that frames it; to the redirect URI's origin only.
  const other = window.opener ?? (window.parent === window ? null : window.parent);
  if (other === null) return;
  const response = Object.fromEntries(new FormData(form));
  other.postMessage({ type: "authorization_response", response }, new URL(form.action).origin);
  window.close();
})();
