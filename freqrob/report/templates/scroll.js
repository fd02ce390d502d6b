// A table that is wider than the page has a shadow on the right while there is more of it.
for (const region of document.querySelectorAll(".scroll")) {
  const update = () =>
    region.classList.toggle("more", region.scrollLeft + region.clientWidth < region.scrollWidth - 1);
  region.addEventListener("scroll", update, { passive: true });
  new ResizeObserver(update).observe(region);
}
