// Package vip puts the virtual IP on this host, keeps it alive for as long as the
// lease lasts, announces it and takes it off. It holds nothing yet: the places
// where it is called are node.Config's Opened and Closed.
package vip
