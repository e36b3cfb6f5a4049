// Sends the one form of a page that only leads on. Without it, the button does. Back from there: nothing is sent again by itself.
"use strict";
(() => {
  const form = document.querySelector("form[data-stepup-send]");
  const [entry] = performance.getEntriesByType("navigation");
  if (form && entry?.type !== "back_forward") form.submit();
})();
