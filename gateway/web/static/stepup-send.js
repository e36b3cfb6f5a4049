// Sends the page's one form at once. Without this its button does the same.
"use strict";
(() => {
  const form = document.querySelector("form[data-stepup-send]");
  const [arrival] = performance.getEntriesByType("navigation");
  // Who came back by the back button is not sent away again; a field may be called "submit", so the method is taken from where it is made.
  if (form && arrival?.type !== "back_forward") HTMLFormElement.prototype.submit.call(form);
})();
