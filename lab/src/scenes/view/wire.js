// Highlights a field together with its bytes. The bytes of the first leaf come first, and so on.
const all = (message, selector) => [...message.querySelectorAll(selector)];
const depth = field => Number(field.style.getPropertyValue('--depth'));

// Returns the field that the mouse or the focus is on, or whose bytes it is on.
const fieldAt = target => {
  const message = target.closest?.('.message');
  const bytes = target.closest?.('.hex span');
  return bytes ? all(message, 'li:not(.group)')[all(message, '.hex span').indexOf(bytes)] : target.closest?.('.fields li');
};

const light = field => {
  for (const lit of document.querySelectorAll('.on')) lit.classList.remove('on');
  if (!field) return;
  const message = field.closest('.message');
  const fields = all(message, 'li');
  const start = fields.indexOf(field);
  const after = fields.findIndex((other, at) => at > start && depth(other) <= depth(field));
  const inside = fields.slice(start, after < 0 ? fields.length : after);
  const leaves = all(message, 'li:not(.group)');
  field.classList.add('on');
  all(message, '.hex span').forEach((bytes, at) => bytes.classList.toggle('on', inside.includes(leaves[at])));
};

const focus = field => {
  for (const other of all(field.closest('.message'), 'li[tabindex]')) other.tabIndex = -1;
  field.tabIndex = 0;
  field.focus();
};

const focused = () => document.activeElement.closest('.fields li');
document.addEventListener('mouseover', event => light(fieldAt(event.target) ?? focused()));
document.addEventListener('focusin', event => light(fieldAt(event.target)));
document.addEventListener('focusout', () => light(null));
document.addEventListener('click', event => fieldAt(event.target) && focus(fieldAt(event.target)));

// The fields of a message are one stop for Tab. The arrow keys move between them.
document.addEventListener('keydown', event => {
  const field = focused();
  const next = { ArrowDown: field?.nextElementSibling, ArrowUp: field?.previousElementSibling }[event.key];
  if (!next) return;
  event.preventDefault();
  focus(next);
});
